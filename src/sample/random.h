// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011). No state: a number is a function of its key
// and counter, so it does not depend on batch, rank layout, preemption or order of calls.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace sluice {

// Four independent 32-bit words.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// The stream of one draw: key = seed; counter = (position low, position high, choice, token id / 4), word = id % 4.
// Several tokens share one evaluation; ascending ids are cheapest.
class TokenNoise {
 public:
  TokenNoise(uint64_t seed, int32_t choice, int64_t position);
  double uniform(int32_t id);  // in (0, 1), multiples of 2^-32 offset by 2^-33
  double gumbel(int32_t id);   // -log(-log(uniform)), always below kMaxGumbel
  // out[i] = 1 - uniform(first + i), rounded to f32; `first` is a multiple of 4.
  void distance_to_one(int32_t first, std::span<float> out) const;
  static constexpr double kMaxGumbel = 22.88;

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> words_{};
  uint32_t cached_ = ~0u;  // id / 4 of words_
};

}  // namespace sluice
