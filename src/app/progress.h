// SPDX-License-Identifier: Apache-2.0
// A progress line on standard error: redrawn in place on a terminal, a line now and then in a log.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sluice {

std::string format_bytes(double bytes);      // "734 MB", "13.2 GB"
std::string format_seconds(double seconds);  // "12 s", "3:07", "2:05:10", "1-02:05:10"

// One line that says where something stands: redrawn in place with the time gone by on a terminal; in a log a line
// whenever what it says has changed.
class StandLine {
 public:
  StandLine();
  ~StandLine() { end(); }
  void show(const std::string& what, const std::string& detail, std::optional<double> share = {});
  void end();  // what comes next begins on a line of its own

 private:
  const bool terminal_;
  const double started_;
  std::string last_;
  int turn_ = 0;
  bool open_ = false;
};

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
