// SPDX-License-Identifier: Apache-2.0
// How much of the job's time limit is left: SLURM_JOB_END_TIME where Slurm sets it, else squeue, asked at most every
// five minutes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "cluster/command.h"
#include "cluster/launch.h"

namespace sluice {

// squeue's %L: "D-HH:MM:SS", "HH:MM:SS", "MM:SS", with blanks around. nullopt for UNLIMITED, NOT_SET, INVALID and
// anything unreadable.
std::optional<int64_t> parse_time_left(std::string_view text);  // seconds

// As squeue prints it: "D-HH:MM:SS", "H:MM:SS", "M:SS". Less than nothing is "0:00".
std::string format_time_left(double seconds);

// Not thread-safe: one owner. Clock is seconds since 1970.
class Walltime {
 public:
  Walltime(const Environment& environment, CommandRunner runner, std::function<double()> clock);

  // Seconds since 1970; nullopt outside Slurm, without a limit, or when nobody could say.
  std::optional<double> end_time();
  std::optional<double> seconds_left();           // may be negative
  const char* origin() const { return origin_; }  // "SLURM_JOB_END_TIME", "squeue" or "unknown"

 private:
  static constexpr double kPollSeconds = 300;
  std::string job_;
  CommandRunner runner_;
  std::function<double()> clock_;
  std::optional<double> end_;
  double next_poll_ = 0;
  bool fixed_ = false;
  const char* origin_ = "unknown";
};

}  // namespace sluice
