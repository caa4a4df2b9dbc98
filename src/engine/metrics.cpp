// SPDX-License-Identifier: Apache-2.0
#include "engine/metrics.h"

#include <algorithm>

namespace sluice {
namespace {

std::vector<double> powers(double first, double last) {
  std::vector<double> bounds;
  for (double b = first; b <= last; b *= 2) bounds.push_back(b);
  return bounds;
}

std::vector<double> seconds() { return powers(0.0005, 600); }
std::vector<double> tokens() { return powers(1, 1 << 20); }

}  // namespace

Histogram::Histogram(std::vector<double> upper_bounds) : bounds(std::move(upper_bounds)), counts(bounds.size() + 1) {}

void Histogram::observe(double value) {
  ++counts[static_cast<size_t>(std::ranges::lower_bound(bounds, value) - bounds.begin())];
  ++count;
  sum += value;
}

EngineMetrics::EngineMetrics()
    : queue_seconds(seconds()),
      first_token_seconds(seconds()),
      token_seconds(seconds()),
      inference_seconds(seconds()),
      request_seconds(seconds()),
      prompt_tokens(tokens()),
      generated_tokens(tokens()),
      max_new_tokens(tokens()) {}

}  // namespace sluice
