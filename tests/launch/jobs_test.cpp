// SPDX-License-Identifier: Apache-2.0
#include "launch/jobs.h"

#include <doctest/doctest.h>

#include "base/error.h"

using namespace sluice;

namespace {
Endpoint record(const char* id, EndpointState state, const char* job, const char* host) {
  Endpoint e;
  e.id = id, e.state = state, e.job_id = job, e.host = host, e.port = 10148, e.pid = 7;
  e.url = std::string("http://") + host + ":10148";
  return e;
}
QueueRow row(const char* id, const char* state, const char* nodes, const char* name = "sluice",
             const char* reason = "None") {
  return {id, state, reason, "1:00:00", nodes, name, "N/A"};
}
const LocalFacts kLocal{"login1", [](int64_t pid) { return pid == 7; }, 1000};
using Queue = std::optional<std::vector<QueueRow>>;
JobView one(const Endpoint& e, const Queue& queue) { return reconcile({e}, queue, kLocal).front(); }
}  // namespace

TEST_CASE("a record and the queue that agree say what the record says") {
  const JobView job = one(record("148", EndpointState::kReady, "148", "n1"), Queue({row("148", "RUNNING", "n[1-2]")}));
  CHECK(job.state == "ready");
  CHECK(job.seconds_left == doctest::Approx(3600));
  CHECK(one(record("148", EndpointState::kDraining, "148", "n1.cluster.org"), Queue({row("148", "RUNNING", "n1")}))
            .state == "draining");
}

TEST_CASE("a server that listens to its own host alone is near on that host, and has its name elsewhere") {
  for (const std::string host : {"login1", "n1"}) {
    Endpoint e = record("148", EndpointState::kReady, "148", host.c_str());
    const Queue queue({row("148", "RUNNING", host.c_str())});
    CHECK(one(e, queue).url == "http://" + host + ":10148");
    e.loopback = true;
    CHECK(one(e, queue).url == (host == "login1" ? "http://localhost:10148" : "http://n1:10148"));
  }
}

TEST_CASE("a requeued job is pending, then moving until its new server has written") {
  QueueRow waiting = row("148", "PENDING", "", "sluice", "Priority");
  waiting.start = "2026-01-02T03:04:05";
  const JobView pending = one(record("148", EndpointState::kReady, "148", "n1"), Queue({waiting}));
  CHECK(pending.state == "pending");
  CHECK(pending.detail ==
        "waiting in the queue (Priority: other jobs come first), expected to start 2026-01-02T03:04:05");
  CHECK(one(record("148", EndpointState::kReady, "148", "n1"), Queue({row("148", "RUNNING", "n2")})).state == "moving");
}

TEST_CASE("a job that is gone has stopped or was lost, as its record ends") {
  Endpoint ended = record("148", EndpointState::kStopped, "148", "n1");
  ended.reason = "drained";
  CHECK(one(ended, Queue(std::vector<QueueRow>{})).state == "stopped");
  const JobView lost = one(record("148", EndpointState::kReady, "148", "n1"), Queue(std::vector<QueueRow>{}));
  CHECK(lost.state == "lost");
  CHECK(lost.detail.find("left no word") != std::string::npos);
  CHECK_FALSE(lost.seconds_left.has_value());
}

TEST_CASE("a task of an array is found by the array's id once it has ended, and the queue has forgotten it") {
  Endpoint ended = record("8", EndpointState::kStopped, "8", "n1");
  ended.task = "6_1";
  const std::vector<JobView> jobs = reconcile({ended}, Queue(std::vector<QueueRow>{}), kLocal);
  CHECK(jobs.front().task == "6_1");
  CHECK(find_job(jobs, "6_1").id == "8");
  CHECK(find_job(jobs, "8").state == "stopped");
}

TEST_CASE("when Slurm does not answer a record is not believed") {
  CHECK(one(record("148", EndpointState::kReady, "148", "n1"), std::nullopt).state == "unconfirmed");
  CHECK(one(record("148", EndpointState::kStopped, "148", "n1"), std::nullopt).state == "stopped");
}

TEST_CASE("processes without Slurm are asked for by their number, on their own host") {
  CHECK(one(record("local-7", EndpointState::kReady, "", "login1"), std::nullopt).state == "ready");
  Endpoint dead = record("local-8", EndpointState::kReady, "", "login1");
  dead.pid = 8;
  CHECK(one(dead, std::nullopt).state == "lost");
  CHECK(one(record("local-7", EndpointState::kReady, "", "elsewhere"), std::nullopt).state == "unconfirmed");
}

TEST_CASE("jobs without a record are shown when they are ours") {
  const auto jobs = reconcile({},
                              Queue({row("150", "PENDING", "", "sluice"), row("151", "RUNNING", "n1", "sluice-x"),
                                     row("152", "RUNNING", "n1", "train")}),
                              kLocal);
  REQUIRE(jobs.size() == 2);
  CHECK(find_job(jobs, "150").state == "pending");
  CHECK(find_job(jobs, "151").state == "loading");
  CHECK(find_job(jobs, "151").name == "sluice-x");
}

TEST_CASE("a task of an array is known by both of its ids, and other jobs of ours are no servers") {
  QueueRow task = row("151", "RUNNING", "n1");
  task.shown = "148_3";
  const auto jobs = reconcile({record("151", EndpointState::kReady, "151", "n1")},
                              Queue({task, row("152", "RUNNING", "n2", "sluice-generate")}), kLocal);
  REQUIRE(jobs.size() == 2);
  CHECK(find_job(jobs, "148_3").id == "151");
  CHECK(find_job(jobs, "151").state == "ready");
  CHECK(find_job(jobs, "152").state == "running");
  CHECK_FALSE(find_job(jobs, "152").server);
}

TEST_CASE("a job is found by its id or by that of its newest step, and a miss lists what there is") {
  const auto jobs = reconcile(
      {record("148.1", EndpointState::kReady, "148", "n1"), record("148", EndpointState::kStopped, "148", "n1")},
      std::nullopt, kLocal);
  CHECK(find_job(jobs, "148").id == "148");
  CHECK(find_job(jobs, "148.1").id == "148.1");
  CHECK_THROWS_WITH_AS(find_job(jobs, "9"), doctest::Contains("148.1 (unconfirmed), 148 (stopped)"), Error);
}

TEST_CASE("squeue's lines are read and others passed over") {
  const auto rows =
      parse_queue("148|RUNNING|None|59:10|n[1-2]|sluice|2026-01-01T00:00:00|148\nslurm_load_jobs error: x\n\n");
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].nodes == "n[1-2]");
  CHECK_FALSE(read_queue([](const auto&, double) { return std::nullopt; }).has_value());
  CHECK_FALSE(read_queue([](const auto&, double) { return CommandResult{1, "error"}; }).has_value());
  CHECK(read_queue([](const auto&, double) { return CommandResult{0, ""}; })->empty());
}

TEST_CASE("a service is found by its name: the newest job that is ready, else the newest that is not over") {
  Endpoint old_one = record("148", EndpointState::kReady, "148", "n1"),
           new_one = record("151", EndpointState::kLoading, "151", "n2");
  old_one.service = new_one.service = "demo";
  const Queue queue({row("148", "RUNNING", "n1"), row("151", "RUNNING", "n2")});
  CHECK(find_job(reconcile({new_one, old_one}, queue, kLocal), "demo").id == "148");
  new_one.state = EndpointState::kReady;
  CHECK(find_job(reconcile({new_one, old_one}, queue, kLocal), "demo").id == "151");
  new_one.state = EndpointState::kStopped, old_one.state = EndpointState::kDraining;
  CHECK(find_job(reconcile({new_one, old_one}, queue, kLocal), "demo").id == "148");
  CHECK(find_job(reconcile({new_one, old_one}, queue, kLocal), "151").id == "151");
}

TEST_CASE("the queue is asked again early where a record is newer than what it said") {
  int asked = 0;
  std::string answer = "148|RUNNING|None|59:10|n1|sluice|N/A|148\n";
  QueueWatch watch([&](const auto&, double) {
    ++asked;
    return CommandResult{0, answer};
  });
  Endpoint old_one = record("148", EndpointState::kReady, "148", "n1");
  old_one.start_time = 100;
  watch.read({old_one}, 0, 1000);
  watch.read({old_one}, 5, 1005);
  CHECK(asked == 1);
  Endpoint new_one = record("151", EndpointState::kReady, "151", "n2");
  new_one.start_time = 1005;
  watch.read({new_one, old_one}, 6, 1006);
  CHECK(asked == 2);
  watch.read({new_one, old_one}, 7, 1007);  // not known yet: asked again, not at once
  CHECK(asked == 2);
  watch.read({new_one, old_one}, 8.5, 1008.5);
  CHECK(asked == 3);
  answer += "151|RUNNING|None|59:10|n2|sluice|N/A|151\n";
  watch.read({new_one, old_one}, 11, 1011);
  watch.read({new_one, old_one}, 14, 1014);
  CHECK(asked == 4);
  watch.read({new_one, old_one}, 40, 1040);
  CHECK(asked == 5);
}
