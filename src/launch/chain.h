// SPDX-License-Identifier: Apache-2.0
// A service: one job after another under one name. Its folder $SLUICE_HOME/services/<name>/ holds a file per generation
// with that job's id, made with O_EXCL so that there are never two; `endpoint.json`, a link to the record of the job
// that became ready last; and `stop` once the service has been ended.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cluster/launch.h"
#include "launch/jobs.h"

namespace sluice {

class Chain {
 public:
  // Throws Error for a name that cannot be a file's.
  Chain(std::filesystem::path home, std::string name);

  bool claim(int generation, const std::string& job);  // false: it is another's; an empty job is named later
  void name_job(int generation, const std::string& job);
  void release(int generation);                             // its job could not be submitted
  std::optional<std::string> job_of(int generation) const;  // nullopt: unclaimed
  int generation_of(const std::string& job) const;          // 0: none
  int last() const;                                         // highest that is claimed; 0: none
  std::vector<std::string> jobs() const;                    // ids, oldest first
  void point_to(const std::string& record) const;           // endpoint.json
  bool stopped() const;
  void stop();
  void forget();  // an ended service begins anew

 private:
  std::filesystem::path file(int generation) const;
  std::filesystem::path home_, folder_;
};

// How long a service goes on, as its job script says.
struct KeepPolicy {
  std::string service;      // SLUICE_SERVICE; empty: none
  bool successors = false;  // SLUICE_KEEP_ALIVE
  double until = 0;     // SLUICE_KEEP_UNTIL, seconds since 1970: no successor is submitted after it, the server ends
  double lead = 0;      // SLUICE_KEEP_LEAD, seconds before the job's end; 0: a third of its time, at most half an hour
  double overlap = 60;  // SLUICE_KEEP_OVERLAP, seconds that the old server goes on beside the new one
  int most_jobs = 0;    // SLUICE_KEEP_JOBS, of the whole chain
};
// Throws Error for values that are no numbers.
KeepPolicy read_keep_policy(const Environment& environment);

struct KeepFacts {
  double now = 0, start = 0, end = 0;  // seconds since 1970; end 0: no limit
  int generation = 1;
  bool ready = false;                // this job's server
  bool stopped = false;              // the service
  bool claimed = false;              // the next generation is
  bool successor_lost = false;       // it has left the queue without becoming ready
  double successor_ready_since = 0;  // 0: it is not
  int attempts = 0;                  // successors submitted by this job
};
enum class KeepAction { kWait, kSubmit, kLeave, kGiveUp };
struct KeepStep {
  KeepAction action = KeepAction::kWait;
  std::string reason;
};
KeepStep next_keep_step(const KeepPolicy& policy, const KeepFacts& facts);

}  // namespace sluice
