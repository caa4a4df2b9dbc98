// SPDX-License-Identifier: Apache-2.0
// The user's servers, as their records under $SLUICE_HOME and Slurm's queue say together. A record alone may be old:
// its job may have been requeued elsewhere, or have died without a word.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/command.h"
#include "cluster/endpoint.h"

namespace sluice {

struct QueueRow {
  std::string id, state, reason, time_left, nodes, name, start;  // as squeue prints them
  std::string shown = id;                                        // "148_3" for a task of an array, whose id may be 151
};
// Lines of squeue -o '%A|%T|%r|%L|%N|%j|%S|%i'; others are passed over.
std::vector<QueueRow> parse_queue(std::string_view text);
// The user's jobs; nullopt where there is no squeue, or it does not answer within the deadline.
std::optional<std::vector<QueueRow>> read_queue(const CommandRunner& run);

// The queue as others may read it too: asked every 15 s, and sooner where a record is newer than what is known.
class QueueWatch {
 public:
  explicit QueueWatch(CommandRunner run) : run_(std::move(run)) {}
  // `now` is monotonic, `wall` since 1970.
  const std::optional<std::vector<QueueRow>>& read(const std::vector<Endpoint>& records, double now, double wall);
  void ask_again() { next_ = 0; }

 private:
  CommandRunner run_;
  std::optional<std::vector<QueueRow>> queue_;
  double asked_ = -1e9, asked_wall_ = 0, next_ = 0;
};

struct JobView {
  std::string id;      // "148", "148.2", "local-4711"
  std::string task;    // "148_3" where it is a task of an array
  std::string state;   // pending, moving, loading, ready, draining, stopped, lost, unconfirmed; running: no server
  std::string detail;  // one line: why, since when, what to do
  std::string name;    // Slurm's, where squeue has said it
  std::string model, url, key_file, log, host, service;
  int port = 0;
  std::optional<double> seconds_left;
  bool server = true;  // false: a job of generate.sh, download.sh or compile.sh
};

// What is known of this process's host, injected by tests.
struct LocalFacts {
  std::string host;
  std::function<bool(int64_t pid)> alive;
  double now = 0;  // seconds since 1970
};
LocalFacts local_facts();

// Newest first. Queue rows without a record count when their name begins with "sluice". `queue` nullopt: Slurm did not
// say, and what a record of a job says is unconfirmed.
std::vector<JobView> reconcile(const std::vector<Endpoint>& records, const std::optional<std::vector<QueueRow>>& queue,
                               const LocalFacts& local);

std::string base_id(const std::string& id);  // without the step: "148" of "148.2"
bool is_over(const JobView& job);            // stopped or lost
// Throws Error where the job is over: another server, perhaps another user's, may have its address by now.
void require_going(const JobView& job);

// The one that `name` means: an id, also an array's (148_3), a job id whose newest step is meant, or a service, of
// whose jobs the newest that is ready is meant, else the newest that is not over. Throws Error that lists what there
// is.
JobView find_job(const std::vector<JobView>& jobs, const std::string& name);

}  // namespace sluice
