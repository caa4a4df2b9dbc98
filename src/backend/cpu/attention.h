// SPDX-License-Identifier: Apache-2.0
// Paged attention on the CPU: tiles of queries of one sequence that share a key head pass over its keys.
//
// A query sums over blocks of kKeys keys that begin at multiples of kKeys positions, in ascending order, with a running
// maximum (online softmax). Keys outside its own range add exact zeros. So a query's result depends neither on which
// other queries share its tile nor on how the prompt was cut into steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/pool.h"

namespace sluice {

inline constexpr int64_t kKeys = 64;

// Queries of one sequence and one key head: `rows` successive positions by `group` query heads.
struct AttentionTile {
  int64_t rows = 0, group = 0, head_dim = 0;
  int64_t first_position = 0;     // of the first row
  float scale = 1.0f;             // of the dot products
  int64_t window = 0;             // 0: all keys up to the row itself
  float soft_cap = 0;             // 0: none
  int64_t all_keys = 0;           // not 0: every row sees keys [0, all_keys)
  const float* slopes = nullptr;  // [group] ALiBi, or null
  bool slopes_rounded = false;    // bf16(slope * key) * scale instead of slope * distance
  const float* biases = nullptr;  // [group][2 * reach + 1] by key - query, or null
  int64_t reach = 0;
  const float* sinks = nullptr;  // [group] scores without a value, or null
  const float* q = nullptr;      // row r, head h at r * q_stride + h * head_dim
  int64_t q_stride = 0;
  float* out = nullptr;  // as q
  int64_t out_stride = 0;
  const int32_t* blocks = nullptr;        // block ids of the sequence
  const void *k = nullptr, *v = nullptr;  // this key head in block 0: [block_size, head_dim]
  int64_t block_size = 0;
  int64_t block_stride = 0;  // elements from one block to the next
  DType dtype = DType::kF32;

  // Keys [first_key, end) are what some row sees: up to the last row's own, unless all rows see all.
  int64_t first_key() const { return window > 0 ? std::max<int64_t>(0, first_position - window + 1) : 0; }
  int64_t end() const { return all_keys > 0 ? all_keys : first_position + rows; }
};

// Where keys [begin, begin + n) of the tile lie: element offsets from k and v. n <= kKeys.
inline void place_keys(const AttentionTile& tile, int64_t begin, int64_t n, int64_t* offsets) {
  int64_t block = begin / tile.block_size, within = begin % tile.block_size;
  for (int64_t j = 0; j < n; ++j) {
    offsets[j] = tile.blocks[block] * tile.block_stride + within * tile.head_dim;
    if (++within == tile.block_size) {
      within = 0;
      ++block;
    }
  }
}

// What the sums of query head `head` are multiplied with when it has met its keys; weights are exp(score - maximum). A
// sink so far above them that it is infinite leaves 0.
inline float share_of_sums(const AttentionTile& tile, int64_t head, float maximum, float total) {
  return 1.0f / (tile.sinks != nullptr ? total + std::exp(tile.sinks[head] - maximum) : total);
}

struct AttentionKernel {
  size_t (*scratch_bytes)(int64_t queries, int64_t head_dim);
  void (*run)(const AttentionTile& tile, void* scratch);
};
const AttentionKernel& attention_kernel(int64_t vector_targets);  // any cache type, any machine
const AttentionKernel* attention_tile_kernel();                   // bf16 cache on AMX; null where this build has none

class AttentionOp {
 public:
  AttentionOp(const CpuIsa& isa, Pool& pool);
  // Shapes are checked by the caller.
  void run(const Tensor& out, const Tensor& q, const BatchView& batch, const CacheIndex& index,
           const AttentionShape& shape, const CacheLayer& cache);

 private:
  struct Task {
    int32_t seq, row, rows;  // rows counted from the sequence's first in this step
  };
  const AttentionKernel& kernel_;
  const AttentionKernel* tile_kernel_ = nullptr;  // where the machine has AMX
  Pool& pool_;
  std::vector<Task> tasks_;       // grows to the largest step
  std::vector<Scratch> scratch_;  // per thread
};

}  // namespace sluice
