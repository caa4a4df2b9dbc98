// SPDX-License-Identifier: Apache-2.0
#include "sample/random.h"

#include "sample/fixed_math.h"

namespace sluice {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

TokenNoise::TokenNoise(uint64_t seed, int32_t choice, int64_t position)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      counter_{static_cast<uint32_t>(position), static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32),
               static_cast<uint32_t>(choice), 0} {}

double TokenNoise::uniform(int32_t id) {
  const uint32_t group = static_cast<uint32_t>(id) / 4;
  if (group != cached_) {
    counter_[3] = cached_ = group;
    words_ = philox4x32(counter_, key_);
  }
  return (static_cast<double>(words_[static_cast<uint32_t>(id) % 4]) + 0.5) * 0x1p-32;
}

double TokenNoise::gumbel(int32_t id) { return -fixed_log(-fixed_log(uniform(id))); }

}  // namespace sluice
