// SPDX-License-Identifier: Apache-2.0
// Kernels of the packed matrix product. Each computes, for some rows of activations and some panels of weights,
//   c[row][column] (+)= sum over k of x[row][k] * w[column][k]
// in f32, one chain of additions per element in ascending k. So an element depends neither on how many rows or panels
// go with it nor on how k is cut into pieces: the chain is stored and taken up again exactly.
//
// Weights: panels of kPanel output features, zero-padded, one after the other. Within a panel
//   f32, f16: [k][kPanel];  bf16: [k / 2][kPanel][2], k padded to kDepth with zeros
// which serves vector registers, pair dot products and tile registers alike. Activations are packed once per product
// in blocks of rows, in the order the kernel reads them.
//
// Quantised weights are whole numbers without sign, and activations are rounded to 8 bits with one scale for each row
// and group of k. Within a group the products are summed as whole numbers, which is exact in any order and with any
// instruction; the sums of groups are added in f32 in ascending k. So the result is the same on every machine. A panel
// is a row of records, one per group:
//   int8: [k / 4][kPanel][4] u8, zero 128; a column's scale is applied to the finished sum
//   int4: scales [kPanel] f16, zeros [kPanel] u8, then [k / 8][kPanel][4] u8 whose byte i holds k = i low, k = 4 + i
//   high
//   int8 with groups: scales and zeros as int4, then [k / 4][kPanel][4] u8
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "backend/backend.h"

namespace sluice {

inline constexpr int64_t kPanel = 32;  // columns (output features) of a panel
inline constexpr int64_t kDepth = 32;  // k is padded to a multiple of this

// One call of multiply().
struct ProductCall {
  float* c = nullptr;  // [blocks * height][c_stride], columns of panel p at p * kPanel
  int64_t c_stride = 0;
  const void* x = nullptr;  // first packed block of rows, at the first k of this call
  size_t x_block_bytes = 0;
  int64_t blocks = 0;
  int64_t height = 0;       // rows of a block
  const void* w = nullptr;  // first panel, at the first k of this call
  size_t w_panel_bytes = 0;
  int64_t panels = 0;
  int64_t depth = 0;           // k of this call, a multiple of kDepth; of whole groups where weights are quantised
  int64_t group = kDepth;      // k of a record
  bool call_ahead = false;     // CpuIsa::call_ahead
  bool continued = false;      // c holds the sum over earlier k
  const void* next = nullptr;  // weights that this thread will probably read after this call; may lie beyond the matrix
};

// Height of blocks for kernels that have 1 to 4 and even heights: many rows fill whole blocks, few are split evenly.
inline int64_t even_height(int64_t rows, int64_t most) {
  if (rows > 8 * most) return most;
  const int64_t blocks = (rows + most - 1) / most, height = (rows + blocks - 1) / blocks;
  return height <= 4 ? height : (height + 1) / 2 * 2;
}

inline constexpr int64_t kInt8Group = 64;           // activations that share a scale where weights are int8
inline constexpr int64_t kMaxGroup = 256;           // largest group: sums of that many products stay exact
inline constexpr size_t kGroupHeader = 3 * kPanel;  // bytes of scales and zeros of a record

struct ProductKernel {
  std::string_view name;
  int64_t max_height = 0;  // rows of a full block
  size_t x_bytes = 0;      // of one packed activation
  // Height of the blocks into which `rows` are packed; the same for all numbers of rows above 8 * max_height.
  int64_t (*block_height)(int64_t rows);
  // Packs `rows` <= height rows of x [rows][x_stride], padded with zeros to [height, depth].
  void (*pack_rows)(void* to, const float* x, int64_t x_stride, int64_t rows, int64_t height, int64_t cols,
                    int64_t depth);
  void (*multiply)(const ProductCall& call);
  size_t x_header = 0;  // bytes of a row's scale and sum, before each group
  // pack_rows for quantised weights.
  void (*pack_groups)(void* to, const float* x, int64_t x_stride, int64_t rows, int64_t height, int64_t cols,
                      int64_t depth, int64_t group) = nullptr;
  // Bytes of the packed activations of `depth` k in a block of one row.
  size_t x_row_bytes(int64_t depth, int64_t group) const {
    return static_cast<size_t>(depth) * x_bytes + static_cast<size_t>(depth / group) * x_header;
  }
};

// Fused multiply-add over f32 lanes, for every scheme and machine; the scheme decides how weights are widened, and
// activations are rounded to bf16 where the weights are bf16.
const ProductKernel& vector_product(Scheme scheme, int64_t vector_targets);
// The products of kInt8, kInt4 and kInt8Groups; `vnni` as CpuIsa has it.
const ProductKernel& integer_product(Scheme scheme, int64_t vector_targets, bool vnni);
// Where weights are used once, they are called into the second-level cache this many bytes ahead if
// ProductCall::call_ahead says so. Beyond the last panel that reads what another thread needs, or nothing; a prefetch
// cannot fault.
inline constexpr int64_t kAhead = 8192;

// bf16 pairs on AVX512-BF16 and on AMX tiles; null where this build has none.
const ProductKernel* pair_product();
const ProductKernel* tile_product();

}  // namespace sluice
