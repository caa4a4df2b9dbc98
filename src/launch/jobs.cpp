// SPDX-License-Identifier: Apache-2.0
#include "launch/jobs.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/devices.h"
#include "cluster/hostlist.h"
#include "cluster/walltime.h"
#include "launch/split.h"
#include "launch/wait.h"

namespace sluice {
namespace {
constexpr double kQueueSeconds = 10, kWatchSeconds = 15, kSoonSeconds = 2;

bool runs(const QueueRow& row) {
  return row.state == "RUNNING" || row.state == "COMPLETING" || row.state == "SUSPENDED" || row.state == "STOPPED";
}

bool holds(const std::string& nodes, const std::string& host) {
  const std::string name = host.substr(0, host.find('.'));
  try {
    const std::vector<std::string> hosts = expand_hostlist(nodes);
    return std::any_of(hosts.begin(), hosts.end(),
                       [&](const std::string& one) { return one.substr(0, one.find('.')) == name; });
  } catch (const Error&) {
    return true;  // a list that we cannot read accuses nobody
  }
}

std::string pending_words(const QueueRow& row) {
  const std::string words = reason_words(row.reason);
  std::string out = "waiting in the queue";
  if (row.reason != "None") out += fmt::format(" ({}{}{})", row.reason, words.empty() ? "" : ": ", words);
  if (!row.start.empty() && row.start != "N/A") out += fmt::format(", expected to start {}", row.start);
  return out;
}

void judge_slurm(JobView& view, const Endpoint& record, const std::optional<std::vector<QueueRow>>& queue) {
  const char* said = endpoint_state_name(record.state);
  if (!queue) {
    view.state = record.state == EndpointState::kStopped ? "stopped" : "unconfirmed";
    view.detail = record.state == EndpointState::kStopped
                      ? record.reason
                      : fmt::format("the record says {}; squeue does not answer", said);
    return;
  }
  const auto row = std::find_if(queue->begin(), queue->end(), [&](const QueueRow& r) { return r.id == record.job_id; });
  if (row == queue->end()) {
    const bool ended = record.state == EndpointState::kStopped;
    view.state = ended ? "stopped" : "lost";
    view.detail =
        ended ? record.reason : fmt::format("the job is gone and left no word (its record says {}); see its log", said);
    return;
  }
  view.name = row->name;
  if (row->shown != row->id) view.task = row->shown;
  if (const auto left = parse_time_left(row->time_left)) view.seconds_left = static_cast<double>(*left);
  if (row->state == "PENDING" || row->state == "REQUEUED" || row->state == "REQUEUE_HOLD") {
    view.state = "pending";
    view.detail = pending_words(*row);
  } else if (!runs(*row)) {
    view.state = "stopped";
    view.detail = fmt::format("Slurm says {}", row->state);
  } else if (!holds(row->nodes, record.host)) {
    view.state = "moving";
    view.detail = fmt::format("the job now runs on {}; the server there has not written its record yet", row->nodes);
  } else {
    view.state = said;
    view.detail = record.reason;
  }
}

// Of our scripts, those that serve nobody.
bool serves(const QueueRow& row) {
  return row.name != "sluice-generate" && row.name != "sluice-download" && row.name != "sluice-compile";
}

void judge_local(JobView& view, const Endpoint& record, const LocalFacts& local) {
  view.state = endpoint_state_name(record.state);
  view.detail = record.reason;
  if (record.state == EndpointState::kStopped) return;
  if (record.host != local.host) {
    view.state = "unconfirmed";
    view.detail = fmt::format("a process of {}; look there", record.host);
  } else if (!local.alive(record.pid)) {
    view.state = "lost";
    view.detail = fmt::format("process {} is gone and left no word", record.pid);
  }
}
// A server that listens to its own host alone is found there by that host's loopback address, not by its name.
std::string near_url(const Endpoint& record, const LocalFacts& local) {
  const bool here = record.loopback && record.host == local.host;
  return here ? fmt::format("http://localhost:{}", record.port) : record.url;
}

}  // namespace

std::vector<QueueRow> parse_queue(std::string_view text) {
  std::vector<QueueRow> rows;
  for (const std::string_view line : split(text, '\n')) {
    const std::vector<std::string_view> fields = split(line, '|');
    if (fields.size() != 8 || fields[0].empty()) continue;
    const std::vector<std::string> f(fields.begin(), fields.end());
    rows.push_back({f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]});
  }
  return rows;
}

std::optional<std::vector<QueueRow>> read_queue(const CommandRunner& run) {
  const auto result = run({"squeue", "--me", "-h", "-o", "%A|%T|%r|%L|%N|%j|%S|%i"}, kQueueSeconds);
  if (!result || result->exit_code != 0) return std::nullopt;
  return parse_queue(result->output);
}

const std::optional<std::vector<QueueRow>>& QueueWatch::read(const std::vector<Endpoint>& records, double now,
                                                             double wall) {
  // A server that began after the queue was read, or that the queue did not know, is no reason to call it lost.
  const bool news = std::any_of(records.begin(), records.end(), [&](const Endpoint& record) {
    if (record.job_id.empty() || record.state == EndpointState::kStopped) return false;
    if (record.start_time >= asked_wall_ - 1) return true;
    return queue_ && wall - record.start_time < 600 &&
           std::none_of(queue_->begin(), queue_->end(), [&](const QueueRow& row) { return row.id == record.job_id; });
  });
  if (now < (news ? std::min(next_, asked_ + kSoonSeconds) : next_)) return queue_;
  queue_ = read_queue(run_);
  asked_ = now, asked_wall_ = wall, next_ = now + kWatchSeconds;
  return queue_;
}

LocalFacts local_facts() {
  return {read_host_facts().host,
          [](int64_t pid) { return pid > 0 && (::kill(static_cast<pid_t>(pid), 0) == 0 || errno == EPERM); },
          wall_seconds()};
}

std::vector<JobView> reconcile(const std::vector<Endpoint>& records, const std::optional<std::vector<QueueRow>>& queue,
                               const LocalFacts& local) {
  std::vector<JobView> out;
  std::set<std::string> known;
  for (const Endpoint& record : records) {
    JobView view;
    view.id = record.id, view.task = record.task;
    view.model = record.model, view.url = near_url(record, local), view.host = record.host, view.port = record.port;
    view.key_file = record.key_file, view.log = record.log, view.service = record.service;
    if (record.end_time > 0) view.seconds_left = record.end_time - local.now;
    if (record.job_id.empty()) {
      judge_local(view, record, local);
    } else {
      known.insert(record.job_id);
      judge_slurm(view, record, queue);
    }
    if (view.state == "stopped" || view.state == "lost") view.seconds_left.reset();
    out.push_back(std::move(view));
  }
  if (queue) {
    for (const QueueRow& row : *queue) {
      if (known.contains(row.id) || !row.name.starts_with("sluice")) continue;
      JobView view;
      view.id = row.id, view.name = row.name;
      if (row.shown != row.id) view.task = row.shown;
      view.server = serves(row);
      view.state = row.state == "PENDING" ? "pending" : view.server ? "loading" : "running";
      view.detail = row.state == "PENDING"
                        ? pending_words(row)
                        : fmt::format("{} on {}{}", row.name, row.nodes, view.server ? ": no record yet" : "");
      if (const auto left = parse_time_left(row.time_left)) view.seconds_left = static_cast<double>(*left);
      out.insert(out.begin(), std::move(view));
    }
  }
  return out;
}

std::string base_id(const std::string& id) { return id.substr(0, id.find('.')); }

bool is_over(const JobView& job) { return job.state == "stopped" || job.state == "lost"; }

void require_going(const JobView& job) {
  if (is_over(job)) throw Error(fmt::format("job {} is {}: {}", job.id, job.state, job.detail));
}

JobView find_job(const std::vector<JobView>& jobs, const std::string& name) {
  for (const JobView& job : jobs)
    if (job.id == name || (!job.task.empty() && job.task == name)) return job;
  for (const JobView& job : jobs)
    if (base_id(job.id) == name) return job;
  const JobView* best = nullptr;
  const auto worth = [](const JobView& job) { return is_over(job) ? 0 : job.state == "ready" ? 2 : 1; };
  for (const JobView& job : jobs)  // newest first
    if (job.service == name && (best == nullptr || worth(job) > worth(*best))) best = &job;
  if (best != nullptr) return *best;
  std::string known;
  for (const JobView& job : jobs) known += fmt::format("{}{} ({})", known.empty() ? "" : ", ", job.id, job.state);
  throw Error(fmt::format("no job '{}' of yours has a record or is queued; there are: {}", name,
                          known.empty() ? "none" : known));
}

}  // namespace sluice
