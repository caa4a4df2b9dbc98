// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores for sequences with one row. The heads of a K/V head's group are packed as rows.
#pragma once

#include "attention_tile.h"

namespace sluice::kernels {

// Adds up the parts of one packed row's keys, in order of the part, and stores element d.
template <class T>
__device__ __forceinline__ void merge_parts(const TileParams& p, int64_t row, int64_t head_row, int head, int d) {
  const int splits = p.a.splits, dim = p.a.head_dim;
  const float* ml = p.parts.ml + head_row * splits * 2;
  const float* sums = p.parts.sums + head_row * splits * dim + d;
  float top = -INFINITY;
  for (int s = 0; s < splits; ++s) top = fmaxf(top, ml[2 * s]);
  float weight = 0, sum = 0;
  for (int s = 0; s < splits; ++s) {
    const float share = ml[2 * s] == -INFINITY ? 0.0f : exp2f(ml[2 * s] - top);
    weight += share * ml[2 * s + 1];
    if (share > 0) sum += share * sums[int64_t{s} * dim];
  }
  static_cast<T*>(p.a.out)[row * p.a.out_stride + int64_t{head} * dim + d] = from_float<T>(sum / weight);
}

// Grid: (splits, n_kv_heads * row tiles of a group, seqs). Job: a tile of packed rows against the block's part of its
// keys; the last part to come adds up all. With `rope` also the rotation of q, and of the sequence's own key by the one
// part that it falls to, which caches it. Precondition: head_dim is kDim; q, out and the cache are 16-byte aligned by
// row; a sequence has at least one key. Bytes moved: 2 * keys * head_dim * sizeof(T) per sequence and K/V head (times
// row tiles of a group, from L2).
template <class T, int kDim>
__global__ void __launch_bounds__(TileShape<T, kDim, true>::kThreads) decode_kernel(const TileParams p) {
  using S = TileShape<T, kDim, true>;
  const AttentionParams& a = p.a;
  T* q = shared_as<T>();
  T* loads = q + S::kQ;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int row_warp = warp / S::kKeyWarps, key_warp = warp % S::kKeyWarps;
  const int group = a.n_heads / a.n_kv_heads, row_tiles = (group + S::kRows - 1) / S::kRows;
  const int kv_head = static_cast<int>(blockIdx.y) / row_tiles;

  const TilePlace place{static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y) % row_tiles};
  const bool last = blockIdx.z == gridDim.z - 1 && blockIdx.x == gridDim.x - 1 && place.tile == row_tiles - 1;
  if (p.zero_rest && last) clear_rest<T>(a, kv_head);
  const int64_t first_row = a.first_row[place.seq];
  const int tokens = static_cast<int>(a.first_row[place.seq + 1] - first_row), context = a.context[place.seq];
  if (tokens != 1) return;
  const int first_packed = place.tile * S::kRows, packed = tokens * group;

  for (int i = static_cast<int>(threadIdx.x); i < S::kRows * S::kPieces; i += S::kThreads) {
    const int r = i / S::kPieces, piece = i % S::kPieces * 8, row = first_packed + r;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (row < packed) {
      const T* from = static_cast<const T*>(a.q) + (first_row + row / group) * a.q_stride +
                      (int64_t{kv_head} * group + row % group) * kDim + piece;
      v = *reinterpret_cast<const uint4*>(from);
    }
    *reinterpret_cast<uint4*>(q + r * S::kStride + piece) = v;
  }
  int position[2], last_key[2];
  float slope[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first_packed + row_warp * 16 + lane / 4 + 8 * r;
    position[r] = context - tokens + row / group;
    last_key[r] = row >= packed ? -1 : a.all_keys ? context - 1 : position[r];
    slope[r] = a.alibi_slopes != nullptr && row < packed ? a.alibi_slopes[kv_head * group + row % group] : 0.0f;
  }
  const int last_packed = (first_packed + S::kRows < packed ? first_packed + S::kRows : packed) - 1;
  const int high = a.all_keys ? context - 1 : context - tokens + last_packed / group;
  int low = 0;
  if (a.window > 0) low = context - tokens + first_packed / group - a.window + 1;
  if (low < 0) low = 0;
  // Tiles start at multiples of kKeys whatever the rows, so that a row meets its keys in the same company.
  int tile = low / S::kKeys, end = high / S::kKeys + 1;
  const int each = (end - tile + a.splits - 1) / a.splits, begin = tile + static_cast<int>(blockIdx.x) * each;
  if (begin + each < end) end = begin + each;
  tile = begin;
  const auto head = [&](int r) {
    const int row = first_packed + row_warp * 16 + lane / 4 + 8 * r;
    return kv_head * group + (row < packed ? row % group : 0);
  };
  const bool idle = first_packed + row_warp * 16 >= packed;
  const int32_t* table = a.block_table + place.seq * a.block_table_stride;

  const bool fresh = p.rope.k != nullptr;
  const int own = fresh ? high : -1;
  if (fresh && p.rope.table != nullptr) {
    __syncthreads();
    const int rows = packed - first_packed < S::kRows ? packed - first_packed : S::kRows, half = p.rope.half;
    const float* cosine = p.rope.table + p.rope.positions[first_row] * p.rope.table_stride;
    for (int i = static_cast<int>(threadIdx.x); i < rows * half; i += S::kThreads) {
      T* x = q + i / half * S::kStride + i % half;
      turn(x[0], x[half], cosine[i % half], cosine[half + i % half]);
    }
  }
  const auto load = [&](int at, T* to) {
    load_keys<T, kDim, true>(a, table, kv_head, at * S::kKeys, low, high, own, to, to + S::kTile);
    if (!fresh || at != own / S::kKeys) return;
    T* key = to + own % S::kKeys * S::kStride;
    place_own<T, kDim, S::kThreads>(p.rope, first_row, kv_head, place.tile == 0, key, key + S::kTile);
  };

  TileState<T, kDim, true> state;
  T* stages[2] = {loads, loads + 2 * S::kTile};
  if (tile < end) load(tile, stages[0]);
  for (int stage = 0; tile < end; ++tile, stage ^= 1) {
    if (tile + 1 < end) {
      load(tile + 1, stages[stage ^ 1]);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    if (!idle) {
      const int part = key_warp * S::kOwnKeys;
      attend<T, kDim, true>(state, a, q + row_warp * 16 * S::kStride, stages[stage] + part * S::kStride,
                            stages[stage] + S::kTile + part * S::kStride, tile * S::kKeys + part, position, last_key,
                            slope, head);
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.weight[r] += __shfl_xor_sync(kAllLanes, state.weight[r], 1);
    state.weight[r] += __shfl_xor_sync(kAllLanes, state.weight[r], 2);
  }

  // Of each key warp: [16][kDim] sums, then [16][2] largest score and weight.
  float* merge = reinterpret_cast<float*>(loads);
  float* mine = merge + key_warp * 16 * (kDim + 2);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = lane / 4 + 8 * r;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      mine[row * kDim + n * 8 + 2 * (lane % 4)] = state.sums[n][2 * r];
      mine[row * kDim + n * 8 + 2 * (lane % 4) + 1] = state.sums[n][2 * r + 1];
    }
    if (lane % 4 == 0) {
      mine[16 * kDim + 2 * row] = state.top[r];
      mine[16 * kDim + 2 * row + 1] = state.weight[r];
    }
  }
  __syncthreads();
  const int rows = packed - first_packed < S::kRows ? packed - first_packed : S::kRows;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kDim; i += S::kThreads) {
    const int row = i / kDim, d = i % kDim, head = kv_head * group + first_packed + row;
    float top = -INFINITY;
    for (int w = 0; w < S::kKeyWarps; ++w) top = fmaxf(top, merge[w * 16 * (kDim + 2) + 16 * kDim + 2 * row]);
    float weight = 0, sum = 0;
    for (int w = 0; w < S::kKeyWarps; ++w) {
      const float* part = merge + w * 16 * (kDim + 2);
      const float share = part[16 * kDim + 2 * row] == -INFINITY ? 0.0f : exp2f(part[16 * kDim + 2 * row] - top);
      weight += share * part[16 * kDim + 2 * row + 1];
      sum += share * part[row * kDim + d];
    }
    if (a.splits == 1) {
      static_cast<T*>(a.out)[first_row * a.out_stride + int64_t{head} * kDim + d] = from_float<T>(sum / weight);
      continue;
    }
    const int64_t part = (int64_t{place.seq} * a.n_heads + head) * a.splits + blockIdx.x;
    p.parts.sums[part * kDim + d] = sum;
    if (d == 0) {
      p.parts.ml[2 * part] = top;
      p.parts.ml[2 * part + 1] = weight;
    }
  }
  if (a.splits == 1) return;
  __threadfence();
  __syncthreads();
  uint32_t* arrived = p.parts.arrived + int64_t{place.seq} * gridDim.y + blockIdx.y;
  int is_last = 0;
  if (threadIdx.x == 0) is_last = atomicAdd(arrived, 1u) == static_cast<uint32_t>(a.splits) - 1;
  if (!__syncthreads_or(is_last)) return;
  __threadfence();
  if (threadIdx.x == 0) *arrived = 0;  // for the next launch
  for (int i = static_cast<int>(threadIdx.x); i < rows * kDim; i += S::kThreads) {
    const int head = kv_head * group + first_packed + i / kDim;
    merge_parts<T>(p, first_row, int64_t{place.seq} * a.n_heads + head, head, i % kDim);
  }
}

// A launch for one head dimension; the definitions of attention_<dim>.cu.
template <int kDim>
cudaError_t decode(const TileParams& p, cudaStream_t stream);

template <class T, int kDim>
cudaError_t start_decode(const TileParams& p, cudaStream_t stream) {
  using S = TileShape<T, kDim, true>;
  const int64_t group = p.a.n_heads / p.a.n_kv_heads;
  const dim3 grid(static_cast<unsigned>(p.a.splits),
                  static_cast<unsigned>(p.a.n_kv_heads) * blocks_for(group, S::kRows), static_cast<unsigned>(p.a.seqs));
  return launch("attention_decode", decode_kernel<T, kDim>, grid, S::kThreads, S::kShared, stream, p);
}

#define SLUICE_DECODE(dim)                                                                                   \
  namespace sluice::kernels {                                                                                \
  template <>                                                                                                \
  cudaError_t decode<dim>(const TileParams& p, cudaStream_t stream) {                                        \
    return p.a.type == Type::kBF16 ? start_decode<bf16, dim>(p, stream) : start_decode<f16, dim>(p, stream); \
  }                                                                                                          \
  }

}  // namespace sluice::kernels
