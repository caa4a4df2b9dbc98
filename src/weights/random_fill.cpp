// SPDX-License-Identifier: Apache-2.0
#include "weights/random_fill.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "weights/convert.h"

namespace sluice {
namespace {
// Finalizer of Chris Wellons ("lowbias32"): two multiplications, so that the compiler vectorises it.
inline uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}
}  // namespace

void fill_random(void* to, DType dtype, uint64_t seed, uint64_t first, int64_t n, float scale) {
  constexpr int64_t kBlock = 1024;
  float values[kBlock];
  if (scale == 0.0f) {
    std::fill(values, values + kBlock, 1.0f);
    for (int64_t done = 0; done < n; done += kBlock) {
      convert_elements(static_cast<char*>(to) + static_cast<size_t>(done) * dtype_bytes(dtype), dtype, values,
                       DType::kF32, std::min(kBlock, n - done));
    }
    return;
  }
  const float step = scale / 2147483648.0f;
  for (int64_t done = 0; done < n; done += kBlock) {
    const int64_t now = std::min(kBlock, n - done);
    const uint64_t at = first + static_cast<uint64_t>(done);
    // The block may cross a multiple of 2^32, where the key changes.
    for (int64_t i = 0; i < now;) {
      const uint64_t index = at + static_cast<uint64_t>(i);
      const uint32_t low = static_cast<uint32_t>(index);
      const uint32_t key = mix(static_cast<uint32_t>(seed) ^
                               mix(static_cast<uint32_t>(seed >> 32) + static_cast<uint32_t>(index >> 32)));
      const int64_t run =
          static_cast<int64_t>(std::min<uint64_t>(static_cast<uint64_t>(now - i), (uint64_t{1} << 32) - low));
      float* out = values + i;
      for (int64_t j = 0; j < run; ++j)
        out[j] = static_cast<float>(static_cast<int32_t>(mix((low + static_cast<uint32_t>(j)) ^ key))) * step;
      i += run;
    }
    if (dtype == DType::kBF16) {  // never NaN, so the plain rounding vectorises
      uint16_t* out = static_cast<uint16_t*>(to) + done;
      for (int64_t i = 0; i < now; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &values[i], sizeof bits);
        out[i] = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
      }
    } else {
      convert_elements(static_cast<char*>(to) + static_cast<size_t>(done) * dtype_bytes(dtype), dtype, values,
                       DType::kF32, now);
    }
  }
}

}  // namespace sluice
