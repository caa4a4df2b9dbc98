// SPDX-License-Identifier: Apache-2.0
// Rotary positions: frequencies by the kinds of scaling that configs name, and the table of cosines and sines.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace sluice {

struct RopeConfig {
  enum class Kind { kDefault, kLinear, kLlama3 };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  int64_t rotary = 0;        // rotated elements of a head, even
  double factor = 1.0;       // kLinear, kLlama3
  double low_freq = 1.0;     // kLlama3: low_freq_factor
  double high_freq = 4.0;    // kLlama3: high_freq_factor
  double original = 8192.0;  // kLlama3: original_max_position_embeddings
};

// Reads rope_theta and rope_scaling, or rope_parameters of newer configs, which wins where both are there. Other kinds
// (dynamic, yarn, longrope, mrope, ...) are refused by name.
RopeConfig read_rope(const Config& config, int64_t rotary, double default_theta);

// [rotary / 2], f32 as the reference computes them.
std::vector<float> rope_frequencies(const RopeConfig& rope);

// f32 [positions, rotary]: cosines, then sines.
std::vector<float> rope_table(const RopeConfig& rope, int64_t positions);

}  // namespace sluice
