// SPDX-License-Identifier: Apache-2.0
#include "sample/random.h"

#include <algorithm>

#include "sample/fixed_math.h"

namespace sluice {

namespace {
// Ten rounds on `kWidth` counters side by side, so that the compiler can use vector multiplies.
template <size_t kWidth>
void rounds(uint32_t (&c)[4][kWidth], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    for (size_t i = 0; i < kWidth; ++i) {
      const uint64_t a = uint64_t{0xD2511F53} * c[0][i];
      const uint64_t b = uint64_t{0xCD9E8D57} * c[2][i];
      c[0][i] = static_cast<uint32_t>(b >> 32) ^ c[1][i] ^ key0;
      c[1][i] = static_cast<uint32_t>(b);
      c[2][i] = static_cast<uint32_t>(a >> 32) ^ c[3][i] ^ key1;
      c[3][i] = static_cast<uint32_t>(a);
    }
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
}
}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  uint32_t c[4][1] = {{counter[0]}, {counter[1]}, {counter[2]}, {counter[3]}};
  rounds(c, key[0], key[1]);
  return {c[0][0], c[1][0], c[2][0], c[3][0]};
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

void TokenNoise::distance_to_one(int32_t first, std::span<float> out) const {
  constexpr size_t kWidth = 16;
  for (size_t begin = 0; begin < out.size(); begin += 4 * kWidth) {
    uint32_t c[4][kWidth];
    for (size_t i = 0; i < kWidth; ++i) {
      for (size_t w = 0; w < 3; ++w) c[w][i] = counter_[w];
      c[3][i] = static_cast<uint32_t>(first) / 4 + static_cast<uint32_t>(begin / 4 + i);
    }
    rounds(c, key_[0], key_[1]);
    const size_t n = std::min(4 * kWidth, out.size() - begin);
    for (size_t i = 0; i < n; ++i) out[begin + i] = (static_cast<float>(~c[i % 4][i / 4]) + 0.5f) * 0x1p-32f;
  }
}

double TokenNoise::gumbel(int32_t id) { return -fixed_log(-fixed_log(uniform(id))); }

}  // namespace sluice
