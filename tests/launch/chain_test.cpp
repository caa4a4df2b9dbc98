// SPDX-License-Identifier: Apache-2.0
#include "launch/chain.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "base/file.h"
#include "cluster/endpoint.h"
#include "cluster/folder.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
// A job of 3000 s whose server is ready, in a service that goes on.
struct Facts : KeepFacts {
  Facts() { start = 1000, end = 4000, now = 2000, ready = true; }
};
KeepPolicy policy_of() {
  KeepPolicy policy;
  policy.service = "demo", policy.successors = true;
  return policy;
}
KeepAction act(const KeepPolicy& policy, const KeepFacts& facts) { return next_keep_step(policy, facts).action; }
}  // namespace

TEST_CASE("a place in a service is claimed once, by whoever comes first") {
  TestFolder folder;
  Chain chain(folder.path, "demo"), other(folder.path, "demo");
  CHECK(chain.last() == 0);
  CHECK(chain.claim(1, "148"));
  CHECK(chain.claim(2, ""));
  CHECK_FALSE(other.claim(2, "152"));
  CHECK(other.job_of(2) == "");
  other.name_job(2, "151");
  CHECK(chain.job_of(2) == "151");
  CHECK(chain.generation_of("151") == 2);
  CHECK(chain.generation_of("9") == 0);
  CHECK(chain.jobs() == std::vector<std::string>{"148", "151"});
  chain.release(2);
  CHECK_FALSE(chain.job_of(2).has_value());
  CHECK(other.claim(2, "152"));
  CHECK(chain.last() == 2);
}

TEST_CASE("a stopped service stays so until it begins anew") {
  TestFolder folder;
  Chain chain(folder.path, "demo");
  chain.claim(1, "148");
  chain.stop();
  CHECK(Chain(folder.path, "demo").stopped());
  chain.forget();
  CHECK_FALSE(chain.stopped());
  CHECK(chain.last() == 0);
  CHECK_THROWS_AS(Chain(folder.path, "../x"), Error);
}

TEST_CASE("endpoint.json shows the record of the job that became ready last, as it is now") {
  TestFolder folder;
  Chain chain(folder.path, "demo");
  Endpoint record;
  record.id = "148", record.url = "http://n1:10148";
  write_endpoint(folder.path, record);
  chain.point_to("148");
  record.id = "151", record.url = "http://n2:10151";
  write_endpoint(folder.path, record);
  chain.point_to("151");
  record.state = EndpointState::kReady;
  write_endpoint(folder.path, record);
  const std::string text = read_file(folder.path / "services/demo/endpoint.json");
  CHECK(text.find("http://n2:10151") != text.npos);
  CHECK(text.find("ready") != text.npos);
}

TEST_CASE("the successor is submitted when the lead is reached and the server is ready, and only then") {
  Facts facts;
  CHECK(act(policy_of(), facts) == KeepAction::kWait);
  facts.now = 3000;  // a third of 3000 s before the end
  CHECK(act(policy_of(), facts) == KeepAction::kSubmit);
  facts.ready = false;
  CHECK(act(policy_of(), facts) == KeepAction::kWait);
  facts.ready = true, facts.claimed = true;
  CHECK(act(policy_of(), facts) == KeepAction::kWait);
  facts.claimed = false, facts.end = 0;
  CHECK(act(policy_of(), facts) == KeepAction::kWait);
  KeepPolicy policy = policy_of();
  policy.lead = 2500;
  facts.end = 4000, facts.now = 1600;
  CHECK(act(policy, facts) == KeepAction::kSubmit);
  policy.successors = false;
  CHECK(act(policy, facts) == KeepAction::kWait);
  facts.end = 100000, facts.now = 98300;  // long jobs: half an hour
  CHECK(act(policy_of(), facts) == KeepAction::kSubmit);
}

TEST_CASE("the old server leaves some time after the new one is ready") {
  Facts facts;
  facts.claimed = true, facts.now = 3100, facts.successor_ready_since = 3060;
  CHECK(act(policy_of(), facts) == KeepAction::kWait);
  facts.now = 3120;
  CHECK(act(policy_of(), facts) == KeepAction::kLeave);
}

TEST_CASE("a chain is bounded by number, time, failures and its owner's word") {
  Facts facts;
  facts.now = 3900;
  KeepPolicy policy = policy_of();
  policy.most_jobs = 3, facts.generation = 3;
  CHECK(next_keep_step(policy, facts).reason.find("--keep-alive-jobs") != std::string::npos);
  facts.generation = 2;
  CHECK(act(policy, facts) == KeepAction::kSubmit);
  policy.until = 3950;
  CHECK(act(policy, facts) == KeepAction::kGiveUp);
  facts.now = 3950;
  CHECK(act(policy, facts) == KeepAction::kLeave);
  policy.until = 0, facts.attempts = 1, facts.claimed = true, facts.successor_lost = true;
  CHECK(act(policy, facts) == KeepAction::kSubmit);
  facts.attempts = 2;
  CHECK(act(policy, facts) == KeepAction::kGiveUp);
  facts.stopped = true;
  CHECK(next_keep_step(policy, facts).reason == "the service was stopped");
}

TEST_CASE("the policy is read from the job's environment") {
  const KeepPolicy policy = read_keep_policy(map_environment(
      {{"SLUICE_SERVICE", "demo"}, {"SLUICE_KEEP_ALIVE", "1"}, {"SLUICE_KEEP_LEAD", "90"}, {"SLUICE_KEEP_JOBS", "4"}}));
  CHECK(policy.service == "demo");
  CHECK(policy.successors);
  CHECK(policy.lead == 90);
  CHECK(policy.overlap == 60);
  CHECK(policy.most_jobs == 4);
  CHECK_THROWS_WITH_AS(read_keep_policy(map_environment({{"SLUICE_KEEP_LEAD", "soon"}})), doctest::Contains("seconds"),
                       Error);
}
