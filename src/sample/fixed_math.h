// SPDX-License-Identifier: Apache-2.0
// exp and log with one fixed sequence of operations. The C library picks variants by CPU whose last bits differ; here
// ranks on different hosts must agree on every bit.
#pragma once

#include <bit>
#include <cstdint>

namespace sluice {

// e^x for x <= 0, f32, relative error below 2e-7; 0 below -87. Branch-free, so that loops over it vectorise.
inline float fixed_exp(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts
  float p = 1.3888889e-3f;                                            // Taylor series to r^6, |r| <= 0.347
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t exponent = (std::bit_cast<int32_t>(shifted) - 0x4B400000 + 127) << 23;
  return x < -87.0f ? 0.0f : p * std::bit_cast<float>(exponent);
}

// ln x for normal x > 0, relative error below 1e-14 away from 1.
inline double fixed_log(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull);  // [1, 2)
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double t = (m - 1.0) / (m + 1.0), t2 = t * t;  // |t| < 0.172: ln m = 2 atanh t
  double series = 1.0 / 19;
  for (int k = 17; k >= 1; k -= 2) series = series * t2 + 1.0 / k;
  return static_cast<double>(exponent) * 0.6931471805599453 + 2.0 * t * series;
}

}  // namespace sluice
