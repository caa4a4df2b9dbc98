// SPDX-License-Identifier: Apache-2.0
// What prefill (attention_prefill.h) and decode (attention_decode.h) share: flash-style attention on tensor cores. The
// queries of a K/V head's group are packed as rows: row r of a sequence is token r / group, head r % group.
// Instantiated per head dimension in attention_<dim>.cu.
#pragma once

#include "attention.h"
#include "device.h"
#include "launch.h"
#include "tensor_core.h"

namespace sluice::kernels {

// Where a block leaves what it found in its part of the keys: workspace of AttentionParams.
constexpr size_t kMostArrivals = 16384;
struct Partials {
  uint32_t* arrived;  // [seqs, grid's y]: parts that are written; kMostArrivals words lie here whatever is used
  float* ml;          // [seqs, n_heads, splits, 2]: largest score (of base 2) and sum of weights
  float* sums;        // [seqs, n_heads, splits, head_dim]
};

// Bias of a head for keys `behind` positions before the row.
__device__ __forceinline__ float bias_of(const AttentionParams& a, int head, int behind) {
  const int at = behind > a.reach ? -a.reach : behind < -a.reach ? a.reach : -behind;
  return a.distance_bias[head * a.bias_stride + a.reach + at];
}
__device__ __forceinline__ float rounded_slope(float slope, int key) {
  return rounded<bf16>(slope * static_cast<float>(key));
}

struct TileParams {
  AttentionParams a;
  RopeCacheParams rope;  // k null: q is rotated and the cache holds all keys
  Partials parts;
  bool skip_single;  // sequences with one row are another kernel's
  bool zero_rest;    // clears rows that belong to no sequence
};

// kRowWarps x 16 packed rows per block; the keys of a tile are cut among kKeyWarps.
template <class T, int kDim, bool kDecode>
struct TileShape {
  static constexpr bool kWide = kDim > 128;
  static constexpr int kRowWarps = kDecode ? 1 : kWide ? 2 : 4;
  static constexpr int kKeyWarps = kDecode ? (kWide ? 2 : 4) : 1;
  static constexpr int kThreads = kRowWarps * kKeyWarps * kWarpSize;
  static constexpr int kRows = kRowWarps * 16;
  static constexpr int kKeys = kWide ? 32 : 64;       // of a tile
  static constexpr int kOwnKeys = kKeys / kKeyWarps;  // of a warp
  static constexpr int kStride = kDim + 8;            // elements between rows in shared memory: no bank conflicts
  static constexpr int kPieces = kDim / 8;            // 16-byte pieces of a head
  static constexpr size_t kQ = size_t{kRows} * kStride, kTile = size_t{kKeys} * kStride;
  static constexpr size_t kMerge = kKeyWarps > 1 ? size_t{kKeyWarps} * 16 * (kDim + 2) * sizeof(float) : 0;
  static constexpr size_t kLoads = 4 * kTile * sizeof(T);  // K and V, two stages
  static constexpr size_t kShared = kQ * sizeof(T) + (kLoads > kMerge ? kLoads : kMerge);
};

// The sequence and the tile in it that block `index` of a grid takes; seq < 0 when there is none. Every lane agrees.
struct TilePlace {
  int seq, tile;
};
__device__ __forceinline__ TilePlace find_tile(const TileParams& p, int index, int group, int rows_per_tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int base = 0; base < p.a.seqs; base += kWarpSize) {
    const int s = base + lane;
    int tiles = 0;
    if (s < p.a.seqs) {
      const int rows = p.a.first_row[s + 1] - p.a.first_row[s];
      tiles = rows == 1 && p.skip_single ? 0 : (rows * group + rows_per_tile - 1) / rows_per_tile;
    }
    int end = tiles;  // of this sequence's tiles among those of the 32
#pragma unroll
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int other = __shfl_up_sync(kAllLanes, end, step);
      if (lane >= step) end += other;
    }
    const unsigned beyond = __ballot_sync(kAllLanes, end > index);
    if (beyond != 0) {
      const int at = __ffs(static_cast<int>(beyond)) - 1;
      const int last = __shfl_sync(kAllLanes, end, at);
      return {base + at, last - 1 - index};  // late tiles, which see most keys, first
    }
    index -= __shfl_sync(kAllLanes, end, kWarpSize - 1);
  }
  return {-1, 0};
}

// One score tile's softmax state of a thread: rows g and g + 8 of its warp's 16.
template <class T, int kDim, bool kDecode>
struct TileState {
  using S = TileShape<T, kDim, kDecode>;
  float sums[kDim / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY};  // largest score, in units of log2
  float weight[2] = {0, 0};               // this thread's share of the sum of weights
};

// Copies the keys [first, first + kKeys) that lie in [low, high] to `k` and `v`; the others become zeros, and the place
// of key `own` is left alone.
template <class T, int kDim, bool kDecode>
__device__ __forceinline__ void load_keys(const AttentionParams& a, const int32_t* table, int kv_head, int first,
                                          int low, int high, int own, T* k, T* v) {
  using S = TileShape<T, kDim, kDecode>;
  for (int i = static_cast<int>(threadIdx.x); i < S::kKeys * S::kPieces; i += S::kThreads) {
    const int row = i / S::kPieces, piece = i % S::kPieces * 8, key = first + row;
    if (key == own) continue;
    const bool valid = key >= low && key <= high;
    int64_t from = 0;
    if (valid) {
      const int block = key / a.block_size, offset = key - block * a.block_size;
      from = table[block] * a.block_stride + (int64_t{kv_head} * a.block_size + offset) * kDim + piece;
    }
    copy_async(k + row * S::kStride + piece, static_cast<const T*>(a.k_cache) + from, valid);
    copy_async(v + row * S::kStride + piece, static_cast<const T*>(a.v_cache) + from, valid);
  }
  commit_copies();
}

// The key and value of token `row`, rotated as rope_and_cache does, to the head's rows `k` and `v` of shared memory,
// and where `keep` to their slot.
template <class T, int kDim, int kThreads>
__device__ __forceinline__ void place_own(const RopeCacheParams& p, int64_t row, int kv_head, bool keep, T* k, T* v) {
  const T* from_k = static_cast<const T*>(p.k) + row * p.k_stride + int64_t{kv_head} * kDim;
  const T* from_v = static_cast<const T*>(p.v) + row * p.v_stride + int64_t{kv_head} * kDim;
  const int half = p.table != nullptr ? p.half : 0;
  const float* cosine = half > 0 ? p.table + p.positions[row] * p.table_stride : nullptr;
  const int64_t slot = keep ? p.slots[row] : -1;
  const int64_t to =
      slot / p.block_size * p.block_stride + (int64_t{kv_head} * p.block_size + slot % p.block_size) * kDim;
  for (int i = static_cast<int>(threadIdx.x); i < kDim; i += kThreads) {
    T key = from_k[i];
    const T value = from_v[i];
    if (i < half) {
      T other = from_k[i + half];
      turn(key, other, cosine[i], cosine[half + i]);
    } else if (i < 2 * half) {
      T other = from_k[i - half];
      turn(other, key, cosine[i - half], cosine[i]);
    }
    k[i] = key;
    v[i] = value;
    if (slot < 0) continue;
    static_cast<T*>(p.k_cache)[to + i] = key;
    static_cast<T*>(p.v_cache)[to + i] = value;
  }
}

template <class T>
__device__ __forceinline__ uint32_t pair_of(float low, float high) {
  Pack<T, 2> pair;
  pair.at[0] = from_float<T>(low);
  pair.at[1] = from_float<T>(high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Adds a warp's own keys of a tile to its state. `q` holds the warp's 16 rows; `first` is the position of own key 0.
// Rows g and g + 8 are `position`, see keys up to `last` and are rows of heads head(0) and head(1).
template <class T, int kDim, bool kDecode, class Head>
__device__ __forceinline__ void attend(TileState<T, kDim, kDecode>& state, const AttentionParams& a, const T* q,
                                       const T* k, const T* v, int first, const int (&position)[2],
                                       const int (&last)[2], const float (&slope)[2], const Head& head) {
  using S = TileShape<T, kDim, kDecode>;
  constexpr int kTiles = S::kOwnKeys / 8;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  float scores[kTiles][4] = {};
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    uint32_t rows[4];
    // Matrices (rows 0-7, d), (rows 8-15, d), (rows 0-7, d + 8), (rows 8-15, d + 8): the operand's registers.
    load_matrices(rows, q + (lane % 16) * S::kStride + d + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < kTiles; j += 2) {
      uint32_t keys[4];
      load_matrices(keys, k + ((j + lane / 16) * 8 + lane % 8) * S::kStride + d + lane / 8 % 2 * 8);
      const uint32_t left[2] = {keys[0], keys[1]}, right[2] = {keys[2], keys[3]};
      mma<T>(scores[j], rows, left);
      mma<T>(scores[j + 1], rows, right);
    }
  }

  constexpr float kLog2e = 1.44269504f;
  const float scale = a.scale * kLog2e;
  float top[2] = {state.top[0], state.top[1]};
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = first + j * 8 + 2 * (lane % 4) + e % 2, r = e / 2;
      const int behind = position[r] - key;
      const bool seen = key <= last[r] && (a.window == 0 || behind < a.window);
      float s = scores[j][e] * scale;
      if (a.soft_cap > 0) s = a.soft_cap * kLog2e * tanhf(scores[j][e] * a.scale / a.soft_cap);
      if (a.distance_bias != nullptr) {
        s += bias_of(a, head(r), behind) * kLog2e;
      } else if (a.slopes_rounded) {
        s += rounded_slope(slope[r], key) * scale;
      } else {
        s -= slope[r] * kLog2e * static_cast<float>(behind);
      }
      scores[j][e] = seen ? s : -INFINITY;
      top[r] = fmaxf(top[r], scores[j][e]);
    }
  }
  float base[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 1));
    top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 2));
    base[r] = top[r] == -INFINITY ? 0.0f : top[r];  // no key seen yet
    const float shrink = exp2f(state.top[r] - base[r]);
    state.top[r] = top[r];
    state.weight[r] *= shrink;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      state.sums[n][2 * r] *= shrink;
      state.sums[n][2 * r + 1] *= shrink;
    }
  }
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      scores[j][e] = exp2f(scores[j][e] - base[e / 2]);
      state.weight[e / 2] += scores[j][e];
    }
  }
#pragma unroll
  for (int s = 0; s < kTiles / 2; ++s) {
    const float(&l)[4] = scores[2 * s];
    const float(&h)[4] = scores[2 * s + 1];
    const uint32_t weights[4] = {pair_of<T>(l[0], l[1]), pair_of<T>(l[2], l[3]), pair_of<T>(h[0], h[1]),
                                 pair_of<T>(h[2], h[3])};
#pragma unroll
    for (int n = 0; n < kDim / 8; n += 2) {
      uint32_t values[4];
      load_matrices_transposed(values, v + (s * 16 + lane % 16) * S::kStride + n * 8 + lane / 16 * 8);
      const uint32_t left[2] = {values[0], values[1]}, right[2] = {values[2], values[3]};
      mma<T>(state.sums[n], weights, left);
      mma<T>(state.sums[n + 1], weights, right);
    }
  }
}

// Rows that no sequence owns, this K/V head's columns of them.
template <class T>
__device__ __forceinline__ void clear_rest(const AttentionParams& a, int kv_head) {
  const int width = a.n_heads / a.n_kv_heads * a.head_dim;
  for (int64_t t = a.first_row[a.seqs]; t < a.rows; ++t) {
    for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x))
      static_cast<T*>(a.out)[t * a.out_stride + int64_t{kv_head} * width + i] = from_float<T>(0.0f);
  }
}

}  // namespace sluice::kernels
