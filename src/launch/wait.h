// SPDX-License-Identifier: Apache-2.0
// From submission to the first answer: where a job stands, in one line.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/jobs.h"

namespace sluice {

enum class LaunchPhase { kPending, kStarting, kLoading, kReady, kEnded };
const char* launch_phase_name(LaunchPhase phase);  // "pending", "starting", "loading", "ready", "ended"

struct LaunchStand {
  LaunchPhase phase = LaunchPhase::kPending;
  std::string detail;           // why, since when, what to do
  std::optional<double> share;  // of the weights that are read
};

// `jobs` as reconcile() says; `queue_is_newer`: the queue was read after the submission; `log`: the end of its output.
LaunchStand judge_launch(const std::string& job, const std::vector<JobView>& jobs, bool queue_is_newer,
                         std::string_view log);

// Share of the weights that a server's log says are read.
std::optional<double> load_share(std::string_view log);
// What a pending reason of Slurm's means and what helps; empty for those that explain themselves.
std::string reason_words(std::string_view reason);

}  // namespace sluice
