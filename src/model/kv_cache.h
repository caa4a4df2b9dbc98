// SPDX-License-Identifier: Apache-2.0
// Memory of the cache groups on one rank: keys and values of its layers in blocks. Which block holds what is decided by
// the scheduler.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "model/model.h"

namespace sluice {

class KvCache {
 public:
  // Keys and values of one token in one layer, bytes.
  static size_t bytes_per_token(int64_t n_kv_heads, int64_t head_dim, DType dtype);

  // `layer_groups` holds the cache group of each local layer. Memory is zeroed.
  void allocate(Backend& backend, const std::vector<int>& layer_groups, const RunLimits& limits, int64_t n_kv_heads,
                int64_t head_dim, DType dtype);
  const CacheLayer& layer(size_t i) const { return layers_[i]; }
  // Copies whole blocks in every layer of `group`; pairs i32 [n, 2] of (from, to).
  void copy_blocks(Backend& backend, int group, const Tensor& pairs) const;

 private:
  std::vector<int> groups_;
  std::vector<Buffer> memory_;
  std::vector<CacheLayer> layers_;
};

}  // namespace sluice
