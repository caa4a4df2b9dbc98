// SPDX-License-Identifier: Apache-2.0
#include "model/relative_bias.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace sluice {

int64_t relative_bucket(const RelativeBuckets& how, int64_t distance) {
  int64_t n = how.buckets, base = 0, far = std::max<int64_t>(-distance, 0);
  if (how.bidirectional) {
    n /= 2;
    base = distance > 0 ? n : 0;
    far = std::abs(distance);
  }
  const int64_t exact = n / 2;
  if (far < exact) return base + far;
  // In f32 and in this order: powers of two fall exactly on whole numbers, and a last bit would move them.
  const float share = std::log(static_cast<float>(far) / static_cast<float>(exact)) /
                      static_cast<float>(std::log(static_cast<double>(how.max_distance) / static_cast<double>(exact)));
  return base + std::min(exact + static_cast<int64_t>(share * static_cast<float>(n - exact)), n - 1);
}

std::vector<float> relative_biases(const RelativeBuckets& how, const std::vector<float>& table, int64_t n_heads,
                                   int64_t first_head, int64_t n_local, int64_t n_padded) {
  const int64_t reach = how.max_distance, width = 2 * reach + 1;
  std::vector<float> out(static_cast<size_t>(n_padded * width), 0.0f);
  for (int64_t d = -reach; d <= reach; ++d) {
    const int64_t bucket = relative_bucket(how, d);
    for (int64_t h = 0; h < n_local; ++h)
      out[static_cast<size_t>(h * width + d + reach)] = table[static_cast<size_t>(bucket * n_heads + first_head + h)];
  }
  return out;
}

}  // namespace sluice
