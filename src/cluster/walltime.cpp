// SPDX-License-Identifier: Apache-2.0
#include "cluster/walltime.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <vector>

namespace sluice {
namespace {

constexpr double kSqueueSeconds = 10;  // a controller that answers later than this is not asked to wait for

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::string_view(" \t\r\n").find(text.front()) != std::string_view::npos)
    text.remove_prefix(1);
  while (!text.empty() && std::string_view(" \t\r\n").find(text.back()) != std::string_view::npos)
    text.remove_suffix(1);
  return text;
}

std::optional<int64_t> whole(std::string_view text) {
  int64_t value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || rest != text.data() + text.size() || value < 0 || value > 1'000'000'000)
    return std::nullopt;
  return value;
}

}  // namespace

std::optional<int64_t> parse_time_left(std::string_view text) {
  text = trim(text);
  int64_t days = 0;
  const size_t dash = text.find('-');
  if (dash != std::string_view::npos) {
    const auto value = whole(text.substr(0, dash));
    if (!value) return std::nullopt;
    days = *value;
    text.remove_prefix(dash + 1);
  }
  std::vector<int64_t> fields;
  for (size_t at = 0; at <= text.size();) {
    const size_t stop = std::min(text.find(':', at), text.size());
    const auto value = whole(text.substr(at, stop - at));
    if (!value) return std::nullopt;
    fields.push_back(*value);
    at = stop + 1;
  }
  if (fields.size() > 3 || fields.size() < 2 || (dash != std::string_view::npos && fields.size() != 3))
    return std::nullopt;
  int64_t seconds = days * 24;
  if (fields.size() == 2) fields.insert(fields.begin(), 0);
  seconds = ((seconds + fields[0]) * 60 + fields[1]) * 60 + fields[2];
  return seconds;
}

std::string format_time_left(double seconds) {
  const auto s = static_cast<int64_t>(std::ceil(std::max(0.0, seconds)));
  const int64_t hours = s / 3600;
  if (hours == 0) return fmt::format("{}:{:02}", s / 60, s % 60);
  if (hours < 24) return fmt::format("{}:{:02}:{:02}", hours, s / 60 % 60, s % 60);
  return fmt::format("{}-{:02}:{:02}:{:02}", hours / 24, hours % 24, s / 60 % 60, s % 60);
}

Walltime::Walltime(const Environment& environment, CommandRunner runner, std::function<double()> clock)
    : runner_(std::move(runner)), clock_(std::move(clock)) {
  const char* job = environment("SLURM_JOB_ID");
  if (job == nullptr || !whole(job)) return;
  job_ = job;
  // The number of an array's last task stands for the whole array.
  const char *array = environment("SLURM_ARRAY_JOB_ID"), *task = environment("SLURM_ARRAY_TASK_ID");
  if (array != nullptr && task != nullptr) job_ = std::string(array) + "_" + task;
  const char* end = environment("SLURM_JOB_END_TIME");
  const auto value = end == nullptr ? std::nullopt : whole(end);
  // Slurm writes a far date for an unlimited job: ten years from now is no limit.
  if (!value || *value == 0) return;
  fixed_ = true;
  origin_ = "SLURM_JOB_END_TIME";
  if (static_cast<double>(*value) < clock_() + 10 * 365.0 * 86400) end_ = static_cast<double>(*value);
}

std::optional<double> Walltime::end_time() {
  if (job_.empty() || fixed_) return end_;
  const double now = clock_();
  if (now < next_poll_) return end_;
  next_poll_ = now + kPollSeconds;
  const auto answer = runner_({"squeue", "-h", "-j", job_, "-o", "%L"}, kSqueueSeconds);
  if (!answer || answer->exit_code != 0)
    return end_;  // the last answer stands: a busy controller does not move the limit
  const std::string_view text = trim(answer->output);
  origin_ = "squeue";
  const auto left = parse_time_left(text);
  if (left) {
    end_ = now + static_cast<double>(*left);
  } else if (text == "UNLIMITED") {
    end_.reset();
  }
  return end_;
}

std::optional<double> Walltime::seconds_left() {
  const auto end = end_time();
  if (!end) return std::nullopt;
  return *end - clock_();
}

}  // namespace sluice
