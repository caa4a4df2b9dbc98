// SPDX-License-Identifier: Apache-2.0
#include "sample/watermark.h"

#include "base/error.h"
#include "sample/random.h"

namespace sluice {

std::array<uint32_t, 4> Watermark::keys(int32_t before) {
  return philox4x32({static_cast<uint32_t>(before), 0, 0, 0}, {15485863, 0});
}

uint32_t Watermark::side(int64_t vocab) {
  uint32_t side = 1;
  while (int64_t{side} * side < vocab) ++side;
  return side;
}

uint32_t Watermark::round(uint32_t value, uint32_t key, uint32_t side) {
  uint32_t x = (value * 0x9E3779B1u) ^ key;
  x = (x ^ x >> 16) * 0x85EBCA6Bu;
  x = (x ^ x >> 13) * 0xC2B2AE35u;
  x ^= x >> 16;
  return static_cast<uint32_t>(uint64_t{x} * side >> 32);
}

Watermark::Watermark(int32_t before, int64_t vocab) : vocab_(vocab), side_(side(vocab)) {
  check(vocab > 0 && vocab <= kMaxVocab, "a vocabulary too large for a watermark");
  const std::array<uint32_t, 4> key = keys(before);
  for (size_t r = 0; r < 4; ++r)
    for (uint32_t v = 0; v < side_; ++v) added_[r][v] = static_cast<uint16_t>(round(v, key[r], side_));
}

}  // namespace sluice
