// SPDX-License-Identifier: Apache-2.0
// Rotary positions: frequencies by the kinds of scaling that configs name, and the table of cosines and sines.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace sluice {

struct RopeConfig {
  enum class Kind { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongRope };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  int64_t rotary = 0;              // rotated elements of a head, even
  double factor = 1.0;             // kLinear, kDynamic, kLlama3, kYarn
  double low_freq = 1.0;           // kLlama3: low_freq_factor
  double high_freq = 4.0;          // kLlama3: high_freq_factor
  double original = 8192.0;        // tokens before scaling; kDynamic, kLlama3, kYarn, kLongRope
  double beta_fast = 32.0;         // kYarn
  double beta_slow = 1.0;          // kYarn
  bool truncate = true;            // kYarn: whole bounds of the ramp
  double scale = 1.0;              // of cosines and sines; kYarn, kLongRope
  std::vector<float> short_ext{};  // kLongRope: [rotary / 2], up to `original` tokens
  std::vector<float> long_ext{};   // and beyond

  // Frequencies depend on how long the sequence is.
  bool varies() const { return kind == Kind::kDynamic || kind == Kind::kLongRope; }
  // Context that this scaling makes of a config's max_position_embeddings.
  int64_t context(int64_t max_positions) const;
};

// What a family's reference takes for granted.
struct RopeDefaults {
  double theta = 10000.0;
  int64_t max_positions = 0;      // of absent max_position_embeddings
  double share = 1.0;             // of a head that is rotated
  bool yarn_is_longrope = false;  // Phi-3's older name
  double original = 0;            // of absent original_max_position_embeddings; 0: none
};

// The rotated elements of a head by partial_rotary_factor, which rope_parameters may hold.
int64_t read_rotary(const Config& config, int64_t head_dim, double fallback, double* share = nullptr);

// Reads rope_theta and rope_scaling, or rope_parameters of newer configs, which wins where both are there. Other kinds
// (mrope, ...) are refused by name.
RopeConfig read_rope(const Config& config, int64_t rotary, const RopeDefaults& defaults);
RopeConfig read_rope(const Config& config, int64_t rotary, double default_theta);
// One set of parameters: rope_parameters of one kind of layer. `whole` is the config that it belongs to.
RopeConfig read_rope_section(const Config& whole, const Config& section, int64_t rotary, const RopeDefaults& defaults);

// [rotary / 2], f32 as the reference computes them, for a sequence of `length` tokens.
std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t length = 0);

// f32 [positions, rotary]: cosines, then sines, of a sequence of `length` tokens.
std::vector<float> rope_table(const RopeConfig& rope, int64_t positions, int64_t length = 0);

}  // namespace sluice
