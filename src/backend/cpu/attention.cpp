// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/attention.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace sluice {
namespace {
constexpr int64_t kWorthThreads = 1024;                  // products: below, waking the others costs more than it saves
constexpr int64_t kTileQueries = 64;                     // rows by heads: what a piece of widened keys is used for
constexpr int64_t kChunksPerThread = 16, kMaxChunk = 8;  // of tasks, so that threads finish together
constexpr int64_t kFewQueries = 16;                      // up to here a tile waits for its keys more than it computes
constexpr int64_t kFetchedKeys = 256;  // of keys and values each, so that they fit the second-level cache

// Calls the keys and values of a tile of few queries into the second-level cache.
void fetch(const AttentionTile& tile) {
  if (tile.rows * tile.group > kFewQueries) return;
  const int64_t seen = tile.first_key(), end = tile.end();
  const int64_t first = seen / tile.block_size, last = (std::min(end, seen + kFetchedKeys) - 1) / tile.block_size;
  const int64_t element = static_cast<int64_t>(dtype_bytes(tile.dtype));
  for (int64_t block = first; block <= last; ++block) {
    const int64_t keys = std::min(tile.block_size, end - block * tile.block_size);
    const int64_t at = tile.blocks[block] * tile.block_stride * element, bytes = keys * tile.head_dim * element;
    for (const void* stored : {tile.k, tile.v}) {
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(stored) + at + i, 0, 2);
    }
  }
}
}  // namespace

AttentionOp::AttentionOp(const CpuIsa& isa, Pool& pool)
    : kernel_(attention_kernel(isa.vector_targets)), pool_(pool), scratch_(static_cast<size_t>(pool.threads())) {
  if (isa.amx_bf16) tile_kernel_ = attention_tile_kernel();
}

void AttentionOp::run(const Tensor& out, const Tensor& q, const BatchView& batch, const CacheIndex& index,
                      const AttentionShape& shape, const CacheLayer& cache) {
  const int64_t group = shape.n_heads / shape.n_kv_heads, tile_rows = std::max<int64_t>(1, kTileQueries / group);
  const int32_t* first_row = batch.first_row.as<int32_t>();
  const int32_t* context = (index.context ? index.context : batch.context).as<int32_t>();
  tasks_.clear();
  int64_t work = 0;  // products of a query and a key
  for (int32_t seq = 0; seq < batch.seqs; ++seq) {
    const int32_t rows = first_row[seq + 1] - first_row[seq];
    check(rows == 0 || (rows > 0 && context[seq] >= (shape.causal ? rows : 1)), "a sequence has fewer keys than rows");
    work += int64_t{rows} * context[seq] * shape.n_heads;
    // Late tiles see the most keys: they come first, so that threads finish together.
    const int32_t step = static_cast<int32_t>(tile_rows);
    for (int32_t row = (rows - 1) / step * step; rows > 0 && row >= 0; row -= step)
      tasks_.push_back({seq, row, std::min(step, rows - row)});
  }
  const int64_t block_size = cache.k.dim(2), head_elements = block_size * shape.head_dim;
  const size_t element = dtype_bytes(cache.k.dtype);
  const bool plain = shape.causal && !shape.distance_bias && !shape.alibi_rounded;
  const bool tiles = plain && cache.k.dtype == DType::kBF16 && tile_kernel_ != nullptr;
  const AttentionKernel& kernel = tiles ? *tile_kernel_ : kernel_;
  const size_t bytes = kernel.scratch_bytes(tile_rows * group, shape.head_dim);
  const int64_t n_tasks = static_cast<int64_t>(tasks_.size()) * shape.n_kv_heads;
  const auto tile_of = [&](int64_t i) {
    const Task& task = tasks_[static_cast<size_t>(i / shape.n_kv_heads)];
    const int64_t kv_head = i % shape.n_kv_heads, row = first_row[task.seq] + task.row;
    const int64_t rows_of_seq = first_row[task.seq + 1] - first_row[task.seq];
    const int64_t column = kv_head * group * shape.head_dim;
    AttentionTile tile;
    tile.rows = task.rows;
    tile.group = group;
    tile.head_dim = shape.head_dim;
    tile.first_position = context[task.seq] - rows_of_seq + task.row;
    tile.scale = shape.scale;
    tile.window = shape.window;
    tile.soft_cap = shape.soft_cap;
    tile.all_keys = shape.causal ? 0 : context[task.seq];
    if (shape.alibi_slopes) tile.slopes = shape.alibi_slopes.as<float>() + kv_head * group;
    tile.slopes_rounded = shape.alibi_rounded;
    if (shape.distance_bias) {
      tile.biases = static_cast<const float*>(shape.distance_bias.row(kv_head * group));
      tile.reach = shape.distance_bias.dim(1) / 2;
    }
    if (shape.sinks) tile.sinks = shape.sinks.as<float>() + kv_head * group;
    tile.q = static_cast<const float*>(q.row(row)) + column;
    tile.q_stride = q.row_stride;
    tile.out = static_cast<float*>(out.row(row)) + column;
    tile.out_stride = out.row_stride;
    tile.blocks = static_cast<const int32_t*>(index.block_table.row(task.seq));
    tile.k = static_cast<const char*>(cache.k.data) + static_cast<size_t>(kv_head * head_elements) * element;
    tile.v = static_cast<const char*>(cache.v.data) + static_cast<size_t>(kv_head * head_elements) * element;
    tile.block_size = block_size;
    tile.block_stride = cache.k.row_stride;
    tile.dtype = cache.k.dtype;
    return tile;
  };
  const int64_t chunk = std::clamp<int64_t>(n_tasks / (kChunksPerThread * pool_.threads()), 1, kMaxChunk);
  pool_.split(n_tasks, work < kWorthThreads ? n_tasks : chunk, [&](int64_t begin, int64_t end, int thread) {
    fetch(tile_of(begin));
    for (int64_t i = begin; i < end; ++i) {
      if (i + 1 < n_tasks) fetch(tile_of(i + 1));
      kernel.run(tile_of(i), scratch_[static_cast<size_t>(thread)].reserve(bytes));
    }
  });
  // Padding rows belong to no sequence; what is left in them must not be noise.
  for (int64_t row = first_row[batch.seqs]; row < out.dim(0); ++row)
    std::memset(out.row(row), 0, static_cast<size_t>(out.dim(1)) * sizeof(float));
}

}  // namespace sluice
