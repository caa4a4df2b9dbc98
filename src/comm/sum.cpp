// SPDX-License-Identifier: Apache-2.0
#include "comm/sum.h"

#include <algorithm>
#include <cstring>

namespace sluice {

void sum_in_rank_order(float* out, std::span<const float* const> parts, size_t n) {
  constexpr size_t kBlock = 1024;  // floats: the running sum stays in the first-level cache
  float sum[kBlock];
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t count = std::min(kBlock, n - begin);
    std::memcpy(sum, parts[0] + begin, count * sizeof(float));
    for (size_t r = 1; r < parts.size(); ++r) {
      const float* part = parts[r] + begin;
      for (size_t i = 0; i < count; ++i) sum[i] += part[i];
    }
    std::memcpy(out + begin, sum, count * sizeof(float));
  }
}

}  // namespace sluice
