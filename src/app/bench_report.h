// SPDX-License-Identifier: Apache-2.0
// What `sluice bench serve` says: on the terminal, as JSON, as CSV, as plots.
#pragma once

#include <string>
#include <vector>

#include "app/maritalk_table.h"
#include "client/load.h"

namespace sluice {

struct BenchLevel {
  int64_t streams = 0;
  double rate = 0;  // arrivals per second; 0: closed loop
  LoadReport report;
  double goodput = 0;  // good requests per second
};

struct BenchResult {
  std::string url, api, model;
  int64_t max_tokens = 0;
  LoadTargets targets;
  std::vector<BenchLevel> levels;
  std::vector<MaritalkRow> maritalk;  // empty unless asked for
};

std::string level_text(const BenchLevel& level, const LoadTargets& targets);  // all figures of one level
std::string sweep_text(const BenchResult& result);                            // a line per level
std::string as_json_text(const BenchResult& result);                          // times in seconds
std::string as_csv(const BenchResult& result);                                // a line per request
std::string as_svg(const BenchResult& result);

}  // namespace sluice
