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

// Bias of a head for keys `behind` positions before the row.
__device__ __forceinline__ float bias_of(const AttentionParams& a, int head, int behind) {
  const int at = behind > a.reach ? -a.reach : behind < -a.reach ? a.reach : -behind;
  return a.distance_bias[head * a.bias_stride + a.reach + at];
}
__device__ __forceinline__ float rounded_slope(float slope, int key) {
  return rounded<bf16>(slope * static_cast<float>(key));
}

// What a row's sums are multiplied with when it has met its keys: `top` is its largest score in units of log2, `weight`
// the sum of its weights against it. A sink so far above them that it is infinite leaves 0.
__device__ __forceinline__ float share_of_sums(const AttentionParams& a, int head, float top, float weight) {
  if (a.sinks != nullptr) weight += exp2f(a.sinks[head] * 1.44269504f - top);
  return 1.0f / weight;
}

struct TileParams {
  AttentionParams a;
  RopeCacheParams rope;  // k null: q is rotated and the cache holds all keys
  bool skip_single;      // sequences with one row are another kernel's
  bool zero_rest;        // clears rows that belong to no sequence
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

template <class T>
__device__ __forceinline__ uint32_t pair_of(float low, float high) {
  Pack<T, 2> pair;
  pair.at[0] = from_float<T>(low);
  pair.at[1] = from_float<T>(high);
  return *reinterpret_cast<const uint32_t*>(&pair);
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
