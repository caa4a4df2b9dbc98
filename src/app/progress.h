// SPDX-License-Identifier: Apache-2.0
// A progress line on standard error: redrawn in place on a terminal, a line now and then in a log.
#pragma once

#include <cstdint>
#include <string>

namespace sluice {

std::string format_bytes(double bytes);      // "734 MB", "13.2 GB"
std::string format_seconds(double seconds);  // "12 s", "3:07", "2:05:10"

class ByteProgress {
 public:
  explicit ByteProgress(std::string name);
  ~ByteProgress();  // ends the line
  // Draws at most as often as its place asks for. The rate is that of the last ten seconds or so.
  void show(uint64_t done, uint64_t total, uint64_t moved);

 private:
  const std::string name_;
  const bool terminal_;
  double started_ = 0, drawn_ = 0, marked_ = 0, rate_ = 0;
  uint64_t marked_bytes_ = 0;
  bool open_ = false;
};

}  // namespace sluice
