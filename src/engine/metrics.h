// SPDX-License-Identifier: Apache-2.0
// Distributions over finished requests, for whoever exports them. Plain data.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice {

struct Histogram {
  std::vector<double> bounds;    // upper bounds of all buckets but the last, ascending
  std::vector<uint64_t> counts;  // [bounds + 1], not cumulative
  uint64_t count = 0;
  double sum = 0;

  explicit Histogram(std::vector<double> upper_bounds);
  void observe(double value);
};

struct EngineMetrics {
  EngineMetrics();
  Histogram queue_seconds;        // submit to first step
  Histogram first_token_seconds;  // submit to first token
  Histogram token_seconds;        // mean time between tokens of one choice, first token excluded
  Histogram inference_seconds;    // first step to end
  Histogram request_seconds;      // submit to end
  Histogram prompt_tokens, generated_tokens, max_new_tokens;
};

}  // namespace sluice
