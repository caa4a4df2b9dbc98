// SPDX-License-Identifier: Apache-2.0
#include "engine/cache_size.h"

#include <algorithm>
#include <limits>

namespace sluice {

std::vector<int64_t> cache_blocks(const std::vector<CacheGroupSpec>& groups, const ExecutorOptions& options,
                                  int64_t slots, size_t bytes) {
  const int64_t per_sequence = (options.max_context + options.block_size - 1) / options.block_size;
  const auto blocks = [&](const CacheGroupSpec& group, int64_t n) {
    if (group.growth == CacheGroupSpec::Growth::kFixed) {
      const int64_t prompt = std::min(options.max_rows, options.max_context);
      return std::min(n, slots * ((prompt + options.block_size - 1) / options.block_size));
    }
    if (group.growth != CacheGroupSpec::Growth::kWindow) return n;
    // Per sequence the window, one block cut at each end, and one that unfinished steps still name.
    const int64_t windows = slots * ((group.window + options.block_size - 1) / options.block_size + 3);
    return std::min(n, windows + options.max_rows / options.block_size);
  };
  const auto fits = [&](int64_t n) {
    size_t sum = 0;
    for (const CacheGroupSpec& g : groups)
      sum += static_cast<size_t>(blocks(g, n) * options.block_size) * g.bytes_per_token;
    return sum <= bytes;
  };
  // Places in the cache are numbered in 32 bits.
  int64_t low = 0, high = std::min(slots * per_sequence, std::numeric_limits<int32_t>::max() / options.block_size);
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  std::vector<int64_t> result;
  for (const CacheGroupSpec& g : groups) result.push_back(blocks(g, low));
  return result;
}

}  // namespace sluice
