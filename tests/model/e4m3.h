// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

namespace sluice::test {

// What a byte other than NaN means.
inline float e4m3(int bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                        : std::ldexp(8.0f + static_cast<float>(fraction), exponent - 10);
  return bits >= 128 ? -magnitude : magnitude;
}

}  // namespace sluice::test
