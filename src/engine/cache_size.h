// SPDX-License-Identifier: Apache-2.0
// How many blocks each cache group gets.
#pragma once

#include <vector>

#include "engine/executor.h"

namespace sluice {

// Blocks per group out of `bytes` of this rank: as many tokens of every group as fit, but no more of a group than
// `slots` sequences of max_context tokens can use (of a window group: what its window and one step cover). Zero blocks
// when not even one of each fits.
std::vector<int64_t> cache_blocks(const std::vector<CacheGroupSpec>& groups, const ExecutorOptions& options,
                                  int64_t slots, size_t bytes);

}  // namespace sluice
