// SPDX-License-Identifier: Apache-2.0
#include "app/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/clock.h"
#include "base/log.h"

namespace sluice {
namespace {
constexpr double kTerminalSeconds = 0.2, kLogSeconds = 15, kRateSeconds = 2;
constexpr int kBar = 24;  // characters
}  // namespace

std::string format_bytes(double bytes) {
  for (const char* unit : {"B", "KB", "MB", "GB"}) {
    if (bytes < 999.5)
      return bytes < 10 && *unit != 'B' ? fmt::format("{:.1f} {}", bytes, unit) : fmt::format("{:.0f} {}", bytes, unit);
    bytes /= 1000;
  }
  return fmt::format("{:.2f} TB", bytes);
}

std::string format_seconds(double seconds) {
  const auto s = static_cast<int64_t>(std::ceil(std::max(0.0, seconds)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

ByteProgress::ByteProgress(std::string name)
    : name_(std::move(name)), terminal_(::isatty(STDERR_FILENO) == 1), started_(monotonic_seconds()) {
  drawn_ = terminal_ ? 0 : started_;
  marked_ = started_;
}

ByteProgress::~ByteProgress() {
  if (open_) std::fputs("\n", stderr);
}

void ByteProgress::show(uint64_t done, uint64_t total, uint64_t moved) {
  const double now = monotonic_seconds();
  if (now - marked_ >= kRateSeconds) {
    const double rate = static_cast<double>(moved - marked_bytes_) / (now - marked_);
    rate_ = rate_ == 0 ? rate : 0.6 * rate_ + 0.4 * rate;
    marked_ = now, marked_bytes_ = moved;
  }
  if (now - drawn_ < (terminal_ ? kTerminalSeconds : kLogSeconds) || total == 0) return;
  drawn_ = now;
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const std::string left =
      rate_ > 0 ? format_seconds(static_cast<double>(total - done) / rate_) + " left" : std::string("starting");
  const std::string numbers =
      fmt::format("{:3.0f} %  {} of {}  {}/s  {}", 100 * share, format_bytes(static_cast<double>(done)),
                  format_bytes(static_cast<double>(total)), format_bytes(rate_), left);
  if (!terminal_) return log_info(fmt::format("{}: {}", name_, numbers));
  const int full = static_cast<int>(share * kBar);
  std::string bar;
  for (int i = 0; i < kBar; ++i) bar += i < full ? "█" : "░";
  fmt::print(stderr, "\r\033[K{} {} {}", name_, bar, numbers);
  std::fflush(stderr);
  open_ = true;
}

}  // namespace sluice
