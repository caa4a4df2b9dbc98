// SPDX-License-Identifier: Apache-2.0
// Exponentials, logarithms and random words with the bits of src/sample. Included by sampling.cu alone, which is
// compiled without contraction of multiply and add.
#pragma once

#include "device.h"

namespace sluice::kernels {
namespace {

// sample/fixed_math.h, operation for operation.
__device__ __forceinline__ float fixed_exp(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const unsigned exponent = (__float_as_uint(shifted) - 0x4B400000u + 127u) << 23;
  return x < -87.0f ? 0.0f : p * __uint_as_float(exponent);
}
__device__ __forceinline__ double fixed_log(double x) {
  const long long bits = __double_as_longlong(x);
  long long exponent = ((bits >> 52) & 0x7ff) - 1023;
  double m = __longlong_as_double((bits & 0x000FFFFFFFFFFFFFll) | 0x3FF0000000000000ll);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double t = (m - 1.0) / (m + 1.0), t2 = t * t;
  double series = 1.0 / 19;
#pragma unroll
  for (int k = 17; k >= 1; k -= 2) series = series * t2 + 1.0 / k;
  return static_cast<double>(exponent) * 0.6931471805599453 + 2.0 * t * series;
}

// Philox 4x32-10 of sample/random.h.
struct Noise {
  uint32_t key[2], counter[3];
  __device__ Noise(uint64_t seed, int32_t choice, int64_t position)
      : key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        counter{static_cast<uint32_t>(position), static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32),
                static_cast<uint32_t>(choice)} {}
  __device__ void words(uint32_t group, uint32_t (&c)[4]) const {
    c[0] = counter[0];
    c[1] = counter[1];
    c[2] = counter[2];
    c[3] = group;
    uint32_t k0 = key[0], k1 = key[1];
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint32_t a_high = __umulhi(0xD2511F53u, c[0]), a_low = 0xD2511F53u * c[0];
      const uint32_t b_high = __umulhi(0xCD9E8D57u, c[2]), b_low = 0xCD9E8D57u * c[2];
      c[0] = b_high ^ c[1] ^ k0;
      c[1] = b_low;
      c[2] = a_high ^ c[3] ^ k1;
      c[3] = a_low;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
  }
};

// The permutation of sample/watermark.h. Its key is Noise's of seed 15485863 with the token before as counter.
struct Watermark {
  uint32_t key[4], side, vocab;
  __device__ Watermark(int32_t before, uint32_t vocab) : side(1), vocab(vocab) {
    Noise(15485863, 0, static_cast<uint32_t>(before)).words(0, key);
    while (side * side < vocab) ++side;
  }
  __device__ uint32_t added(uint32_t value, int round) const {
    uint32_t x = (value * 0x9E3779B1u) ^ key[round];
    x = (x ^ x >> 16) * 0x85EBCA6Bu;
    x = (x ^ x >> 13) * 0xC2B2AE35u;
    return __umulhi(x ^ x >> 16, side);
  }
  __device__ uint32_t rank(uint32_t id) const {
    do {
      uint32_t low = id % side, high = id / side;
      low = (low + added(high, 0)) % side;
      high = (high + added(low, 1)) % side;
      low = (low + added(high, 2)) % side;
      high = (high + added(low, 3)) % side;
      id = high * side + low;
    } while (id >= vocab);
    return id;
  }
};
__device__ __forceinline__ double gumbel(uint32_t word) {
  const double uniform = (static_cast<double>(word) + 0.5) * (1.0 / 4294967296.0);
  return -fixed_log(-fixed_log(uniform));
}

}  // namespace
}  // namespace sluice::kernels
