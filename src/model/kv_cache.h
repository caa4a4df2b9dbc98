// SPDX-License-Identifier: Apache-2.0
// Memory of the cache groups on one rank: keys and values of its layers in blocks. Which block holds what is decided by
// the scheduler.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "model/model.h"
#include "weights/spec.h"

namespace sluice {

// Which layers share a cache group: those with the same window. Equal on every stage, also where a stage has no layer
// of a group.
struct CacheLayout {
  std::vector<CacheGroupSpec> groups;  // bytes_per_token of the local layers
  std::vector<int> layer_groups;       // of each local layer
};

// `windows` of all layers, 0 where all keys are seen; `layer_bytes` are those of one token in one layer.
CacheLayout plan_cache(const std::vector<int64_t>& windows, const LayerRange& local, size_t layer_bytes);

// Throws Error where a sequence may be longer than the model's positions.
void require_context(const RunLimits& limits, int64_t max_positions);

// Bytes of all groups. Throws Error, with the numbers, when they, `scratch` and `tables` do not fit into free memory.
size_t require_cache_memory(const Backend& backend, const std::vector<CacheGroupSpec>& groups, const RunLimits& limits,
                            size_t scratch, size_t tables);

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
