// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace sluice {

CacheLayout plan_cache(const std::vector<int64_t>& windows, const LayerRange& local, size_t layer_bytes) {
  CacheLayout out;
  std::vector<int64_t> seen;
  for (int64_t i = 0; i < static_cast<int64_t>(windows.size()); ++i) {
    const int64_t window = windows[static_cast<size_t>(i)];
    const size_t group = static_cast<size_t>(std::find(seen.begin(), seen.end(), window) - seen.begin());
    if (group == seen.size()) {
      seen.push_back(window);
      const bool all = window == 0;
      out.groups.push_back({all ? "self" : "window",
                            all ? CacheGroupSpec::Growth::kPerToken : CacheGroupSpec::Growth::kWindow, 0, window});
    }
    if (i < local.begin || i >= local.begin + local.count) continue;
    out.layer_groups.push_back(static_cast<int>(group));
    out.groups[group].bytes_per_token += layer_bytes;
  }
  return out;
}

void require_context(const RunLimits& limits, int64_t max_positions) {
  if (limits.max_context <= max_positions) return;
  throw Error(
      fmt::format("a context of {} tokens was asked for, the model supports {}", limits.max_context, max_positions));
}

size_t require_cache_memory(const Backend& backend, const std::vector<CacheGroupSpec>& groups, const RunLimits& limits,
                            size_t scratch, size_t tables) {
  check(limits.blocks.size() == groups.size(), "limits name the blocks of every cache group");
  size_t cache = 0;
  for (size_t g = 0; g < groups.size(); ++g)
    cache += static_cast<size_t>(limits.blocks[g] * limits.block_size) * groups[g].bytes_per_token;
  const size_t needed = cache + scratch + tables, left = backend.free_bytes();
  if (needed <= left) return cache;
  const auto gb = [](size_t bytes) { return 1e-9 * static_cast<double>(bytes); };
  throw Error(fmt::format(
      "the model needs {:.2f} GB beside its weights (cache {:.2f}, scratch {:.2f}), {:.2f} GB are free; ask "
      "for fewer tokens in total or for shorter steps",
      gb(needed), gb(cache), gb(scratch), gb(left)));
}

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
