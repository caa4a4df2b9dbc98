// SPDX-License-Identifier: Apache-2.0
#include "app/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/clock.h"
#include "base/log.h"
#include "base/terminal.h"
#include "cluster/walltime.h"

namespace sluice {
namespace {
constexpr double kTerminalSeconds = 0.2, kLogSeconds = 15, kRateSeconds = 2;
constexpr int kBar = 24, kLeastBar = 8;  // characters
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
  const double whole = std::ceil(std::max(0.0, seconds));
  return whole < 60 ? fmt::format("{:.0f} s", whole) : format_time_left(whole);
}

namespace {
std::string bar_of(double share, int columns) {
  const int full = static_cast<int>(share * columns);
  std::string bar;
  for (int i = 0; i < columns; ++i) bar += i < full ? "█" : "░";
  return bar;
}
}  // namespace

StandLine::StandLine() : terminal_(::isatty(STDERR_FILENO) == 1), started_(monotonic_seconds()) {}

void StandLine::show(const std::string& what, const std::string& detail, std::optional<double> share) {
  if (!terminal_) {
    // Percentages in steps, so that a log stays short.
    std::string line = fmt::format("{}{}{}", what, detail.empty() ? "" : ": ", detail);
    if (share) line += fmt::format(" ({:.0f} %)", std::floor(*share * 10) * 10);
    if (line == last_) return;
    last_ = line;
    return log_info(line);
  }
  constexpr const char* kTurn[] = {"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"};
  const std::string gone = format_seconds(monotonic_seconds() - started_);
  size_t used = 2 + 9 + 2 + gone.size() + 2;
  if (share) used += kBar + 8;
  const size_t columns = terminal_columns(STDERR_FILENO), room = columns > used + 1 ? columns - used - 1 : 0;
  fmt::print(stderr, "\r\033[K\033[36m{}\033[0m \033[1m{:<9}\033[0m \033[2m{}\033[0m  ", kTurn[turn_++ % 10], what,
             gone);
  if (share) fmt::print(stderr, "{} {:3.0f} %  ", bar_of(*share, kBar), 100 * *share);
  fmt::print(stderr, "{}", cut_to(detail, room));
  std::fflush(stderr);
  open_ = true;
}

void StandLine::end() {
  if (open_) std::fputs("\r\033[K", stderr);
  open_ = false;
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
  // A line that is too long cannot be drawn over: the bar shrinks, then the name.
  const size_t columns = terminal_columns(STDERR_FILENO), fixed = numbers.size() + 3;
  const size_t name = std::min(width_of(name_), columns > fixed + kLeastBar ? columns - fixed - kLeastBar : 0);
  const size_t bar = std::clamp<size_t>(columns > fixed + name ? columns - fixed - name : 0, 0, kBar);
  fmt::print(stderr, "\r\033[K{} {} {}", cut_to(name_, name), bar_of(share, static_cast<int>(bar)), numbers);
  std::fflush(stderr);
  open_ = true;
}

}  // namespace sluice
