// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

namespace sluice {

size_t KvCache::bytes_per_token(int64_t n_kv_heads, int64_t head_dim, DType dtype) {
  return 2 * static_cast<size_t>(n_kv_heads * head_dim) * dtype_bytes(dtype);
}

void KvCache::allocate(Backend& backend, const std::vector<int>& layer_groups, const RunLimits& limits,
                       int64_t n_kv_heads, int64_t head_dim, DType dtype) {
  groups_ = layer_groups;
  for (const int group : groups_) {
    const int64_t blocks = limits.blocks[static_cast<size_t>(group)];
    const size_t bytes = static_cast<size_t>(blocks * limits.block_size) * bytes_per_token(n_kv_heads, head_dim, dtype);
    memory_.push_back(backend.allocate(bytes));
    const auto half = [&](size_t offset) {
      return memory_.back().view(dtype, {blocks, n_kv_heads, limits.block_size, head_dim}, offset);
    };
    layers_.push_back({half(0), half(bytes / 2)});
  }
}

void KvCache::copy_blocks(Backend& backend, int group, const Tensor& pairs) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (groups_[i] != group) continue;
    backend.copy_blocks(layers_[i].k, pairs);
    backend.copy_blocks(layers_[i].v, pairs);
  }
}

}  // namespace sluice
