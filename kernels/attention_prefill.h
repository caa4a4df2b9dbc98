// SPDX-License-Identifier: Apache-2.0
// Flash-style attention of sequences with several rows. The queries of a K/V head's group are packed as rows: row r of
// a sequence is token r / group, head r % group. Products are a warpgroup's where the device has them, else a warp's.
#pragma once

#include "attention_tile.h"
#include "warpgroup.h"

namespace sluice::kernels {

// kGroups x 64 packed rows per block, 16 per warp, against tiles of kKeys keys. One group stands for devices without
// products of warpgroups. The order of a row's sums does not depend on the number of groups beyond.
template <class T, int kDim, int kGroups>
struct PrefillShape {
  static constexpr bool kWide = kGroups > 1;
  static constexpr int kThreads = kGroups * kGroupThreads, kRows = kGroups * 64;
  static constexpr int kKeys = kDim > 128 && !kWide ? 32 : 64;
  static constexpr int kPanel = kDim % 64 == 0 ? 64 : kDim % 32 == 0 ? 32 : 16;
  static constexpr int kPieces = kDim / 8;  // 16-byte pieces of a head
  static constexpr int kCopies = (kKeys * kPieces + kThreads - 1) / kThreads;
  static constexpr int kGroupQ = 64 * kDim, kQ = kGroups * kGroupQ, kTile = kKeys * kDim;  // elements
  static constexpr size_t kShared = size_t{kQ + 4 * kTile} * sizeof(T);
};

template <class T>
__device__ __forceinline__ uint32_t rounded_pair(float low, float high) {
  if constexpr (std::is_same_v<T, bf16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// Copies tiles of a sequence's keys or values into panels; what lies outside [low, high] becomes zeros, and the place
// of key `own` is left alone.
template <class T, int kDim, int kGroups>
struct TileCopier {
  using S = PrefillShape<T, kDim, kGroups>;
  const int32_t* table;
  uint32_t stride, head;  // from block to block; what lies before the head in a block: in pieces
  int shift, low, high, own;
  int32_t blocks[S::kCopies];  // of this thread's pieces, -1 outside

  static __device__ __forceinline__ int index(int c) { return static_cast<int>(threadIdx.x) + c * S::kThreads; }
  static __device__ __forceinline__ bool within(int c) {
    return S::kKeys * S::kPieces % S::kThreads == 0 || index(c) < S::kKeys * S::kPieces;
  }
  __device__ __forceinline__ void find(int first) {
#pragma unroll
    for (int c = 0; c < S::kCopies; ++c) {
      const int key = first + index(c) / S::kPieces;
      blocks[c] = within(c) && key >= low && key <= high ? table[key >> shift] : -1;
    }
  }
  // The tile that find() was told.
  template <bool kOwn>
  __device__ __forceinline__ void copy(const void* cache, int first, T* to) const {
#pragma unroll
    for (int c = 0; c < S::kCopies; ++c) {
      const int row = index(c) / S::kPieces, piece = index(c) % S::kPieces, key = first + row;
      const uint32_t offset = static_cast<uint32_t>(key) & ((1u << shift) - 1);
      const uint64_t from = static_cast<uint64_t>(static_cast<uint32_t>(blocks[c] < 0 ? 0 : blocks[c])) * stride +
                            (head + offset * S::kPieces + static_cast<uint32_t>(piece));
      if (within(c) && !(kOwn && key == own))
        copy_async(to + panel_place<S::kPanel, S::kKeys>(row, piece), static_cast<const T*>(cache) + from * 8,
                   blocks[c] >= 0);
    }
  }
};

// The key or the value of token `row`, rotated as rope_and_cache does, to row `to_row` of a tile, and where `keep` to
// its slot.
template <class T, int kDim, int kGroups>
__device__ __forceinline__ void place_fresh(const RopeCacheParams& p, int64_t row, int kv_head, bool keep, bool value,
                                            T* tile, int to_row) {
  using S = PrefillShape<T, kDim, kGroups>;
  const T* from =
      (value ? static_cast<const T*>(p.v) + row * p.v_stride : static_cast<const T*>(p.k) + row * p.k_stride) +
      int64_t{kv_head} * kDim;
  const int half = p.table != nullptr && !value ? p.half : 0;
  const float* cosine = half > 0 ? p.table + p.positions[row] * p.table_stride : nullptr;
  const int64_t slot = keep ? p.slots[row] : -1;
  T* cached = static_cast<T*>(value ? p.v_cache : p.k_cache) + slot / p.block_size * p.block_stride +
              (int64_t{kv_head} * p.block_size + slot % p.block_size) * kDim;
  for (int i = static_cast<int>(threadIdx.x); i < kDim; i += S::kThreads) {
    T x = from[i];
    if (i < half) {
      T other = from[i + half];
      turn(x, other, cosine[i], cosine[half + i]);
    } else if (i < 2 * half) {
      T other = from[i - half];
      turn(other, x, cosine[i - half], cosine[i]);
    }
    tile[panel_place<S::kPanel, S::kKeys>(to_row, i / 8) + i % 8] = x;
    if (slot >= 0) cached[i] = x;
  }
}

// What a thread knows of rows g and g + 8 of its warp's 16.
template <int kDim>
struct RowState {
  float sums[kDim / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY};  // largest score
  float weight[2] = {0, 0};               // this thread's share of the sum of weights
  int position[2], last[2];
  float slope[2];
  int head[2];
};

// Whether scores are more than scaled products, and then what they are, in units of log2.
__host__ __device__ __forceinline__ bool has_bias(const AttentionParams& a) {
  return a.distance_bias != nullptr || a.alibi_slopes != nullptr || a.soft_cap > 0 || !(a.scale > 0);
}
template <int kTiles>
__device__ __forceinline__ void bias_scores(float (&scores)[kTiles][4], const AttentionParams& a, int first,
                                            const int (&position)[2], const float (&slope)[2], const int (&head)[2]) {
  constexpr float kLog2e = 1.44269504f;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = first + j * 8 + 2 * (lane % 4) + e % 2, r = e / 2, behind = position[r] - key;
      float s = scores[j][e] * a.scale;
      if (a.soft_cap > 0) s = a.soft_cap * tanhf(s / a.soft_cap);
      if (a.distance_bias != nullptr) {
        s += bias_of(a, head[r], behind);
      } else if (a.slopes_rounded) {
        s += rounded_slope(slope[r], key) * a.scale;
      } else {
        s -= slope[r] * static_cast<float>(behind);
      }
      scores[j][e] = s * kLog2e;
    }
  }
}

// The scores of a tile become weights; `shrink` is what earlier sums are to be multiplied with. log2 of a weight is
// `unit` times its score.
template <int kDim, int kTiles>
__device__ __forceinline__ void weigh(float (&scores)[kTiles][4], RowState<kDim>& state, float unit,
                                      float (&shrink)[2]) {
  float top[2] = {state.top[0], state.top[1]}, base[2];
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) top[e / 2] = fmaxf(top[e / 2], scores[j][e]);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 1));
    top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 2));
    base[r] = top[r] == -INFINITY ? 0.0f : __fmul_rn(top[r], unit);  // no key seen yet
    shrink[r] = fast_exp2(__fmaf_rn(state.top[r], unit, -base[r]));
    state.top[r] = top[r];
    state.weight[r] *= shrink[r];
  }
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      scores[j][e] = fast_exp2(__fmaf_rn(scores[j][e], unit, -base[e / 2]));
      state.weight[e / 2] += scores[j][e];
    }
  }
}

// Products of a warpgroup or of its warps. `q`: 64 rows; k and v: a tile; all in panels.
template <class T, int kDim, int kGroups>
struct TileProducts {
  using S = PrefillShape<T, kDim, kGroups>;
  static constexpr int kTiles = S::kKeys / 8;

  static __device__ __forceinline__ void scores(float (&scores)[kTiles][4], const T* q, const T* k) {
    if constexpr (S::kWide) {
#pragma unroll
      for (int d = 0; d < kDim; d += 16) {
        const int panel = d / S::kPanel, column = d % S::kPanel;
        multiply_rows<T, S::kPanel>(scores, {q + panel * 64 * S::kPanel + column, 0},
                                    {k + panel * S::kKeys * S::kPanel + column, 0}, d > 0);
      }
      products_commit();
    } else {
      const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize % 4;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[j][e] = 0;
      }
#pragma unroll
      for (int d = 0; d < kDim; d += 16) {
        uint32_t rows[4];
        // Matrices (rows 0-7, d), (rows 8-15, d), (rows 0-7, d + 8), (rows 8-15, d + 8): the operand's registers.
        load_matrices(rows, q + panel_place<S::kPanel, 64>(warp * 16 + lane % 16, d / 8 + lane / 16));
#pragma unroll
        for (int j = 0; j < kTiles; j += 2) {
          uint32_t keys[4];
          load_matrices(keys,
                        k + panel_place<S::kPanel, S::kKeys>((j + lane / 16) * 8 + lane % 8, d / 8 + lane / 8 % 2));
          const uint32_t left[2] = {keys[0], keys[1]}, right[2] = {keys[2], keys[3]};
          mma<T>(scores[j], rows, left);
          mma<T>(scores[j + 1], rows, right);
        }
      }
    }
  }
  static __device__ __forceinline__ void sums(float (&sums)[kDim / 8][4], const uint32_t (&weights)[kTiles / 2][4],
                                              const T* v) {
#pragma unroll
    for (int s = 0; s < kTiles / 2; ++s) {
      if constexpr (S::kWide) {
        multiply_columns<T, S::kPanel>(sums, weights[s],
                                       {v + s * 16 * S::kPanel, S::kKeys * S::kPanel * static_cast<int>(sizeof(T))});
      } else {
        const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
        for (int n = 0; n < kDim / 8; n += 2) {
          uint32_t values[4];
          load_matrices_transposed(values, v + panel_place<S::kPanel, S::kKeys>(s * 16 + lane % 16, n + lane / 16));
          const uint32_t left[2] = {values[0], values[1]}, right[2] = {values[2], values[3]};
          mma<T>(sums[n], weights[s], left);
          mma<T>(sums[n + 1], weights[s], right);
        }
      }
    }
    if constexpr (S::kWide) products_commit();
  }
  template <int kPending, int kAll>
  static __device__ __forceinline__ void wait(float (&d)[kAll][4]) {
    if constexpr (S::kWide) products_wait<kPending>(d);
  }
  static __device__ __forceinline__ void begin() {
    if constexpr (S::kWide) products_begin();
  }
};

// Grid: (n_kv_heads * tiles of all sequences), a tile's heads side by side, late tiles first. Job: one tile of packed
// rows against its keys. The scores of a tile are multiplied while the weights of the one before meet their values.
// Precondition: head_dim is kDim; q, out and the cache are 16-byte aligned by row; a sequence has at least one key.
// Bytes moved: 2 * keys * head_dim * sizeof(T) per tile, from L2.
template <class T, int kDim, int kGroups, bool kGeneral>
__global__ void __launch_bounds__(PrefillShape<T, kDim, kGroups>::kThreads) prefill_kernel(const TileParams p) {
#if defined(SLUICE_CUDA_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr bool kHere = true;
#else
  constexpr bool kHere = kGroups == 1;
#endif
  if constexpr (kHere) {
    using S = PrefillShape<T, kDim, kGroups>;
    using Products = TileProducts<T, kDim, kGroups>;
    constexpr int kTiles = S::kKeys / 8;
    const AttentionParams& a = p.a;
    T* all_q = shared_as<T>();
    T* keys = all_q + S::kQ;          // two tiles
    T* values = keys + 2 * S::kTile;  // two tiles
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
    const int group = a.n_heads / a.n_kv_heads, kv_head = static_cast<int>(blockIdx.x) % a.n_kv_heads;
    const int index = static_cast<int>(blockIdx.x) / a.n_kv_heads;
    if (p.zero_rest && blockIdx.x >= gridDim.x - static_cast<unsigned>(a.n_kv_heads)) clear_rest<T>(a, kv_head);
    const TilePlace place = find_tile(p, index, group, S::kRows);
    if (place.seq < 0) return;
    const int64_t first_row = a.first_row[place.seq];
    const int tokens = static_cast<int>(a.first_row[place.seq + 1] - first_row), context = a.context[place.seq];
    const int first_packed = place.tile * S::kRows, packed = tokens * group;

#pragma unroll 4
    for (int i = thread; i < S::kRows * S::kPieces; i += S::kThreads) {
      const int r = i / S::kPieces, piece = i % S::kPieces, row = first_packed + r;
      const bool valid = row < packed;
      const T* from = static_cast<const T*>(a.q);
      if (valid)
        from += (first_row + row / group) * a.q_stride + (int64_t{kv_head} * group + row % group) * kDim + piece * 8;
      copy_async(all_q + r / 64 * S::kGroupQ + panel_place<S::kPanel, 64>(r % 64, piece), from, valid);
    }

    const int warp_row = first_packed + thread / kWarpSize * 16;
    const bool idle = first_packed + thread / kGroupThreads * 64 >= packed;  // the same in all warps of a warpgroup
    RowState<kDim> state;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = warp_row + lane / 4 + 8 * r;
      state.position[r] = context - tokens + row / group;
      state.last[r] = a.all_keys ? context - 1 : state.position[r];
      state.head[r] = kv_head * group + row % group;
      state.slope[r] = a.alibi_slopes != nullptr ? a.alibi_slopes[state.head[r]] : 0.0f;
    }
    // Keys that all rows of the warp see, and those that any row of the block sees.
    const int warp_position = context - tokens + warp_row / group;
    const int all_high = a.all_keys ? context - 1 : warp_position;
    const int all_low = a.window > 0 ? context - tokens + (warp_row + 15) / group - a.window + 1 : 0;
    const int last_packed = (first_packed + S::kRows < packed ? first_packed + S::kRows : packed) - 1;
    const int high = a.all_keys ? context - 1 : context - tokens + last_packed / group;
    int low = 0;
    if (a.window > 0) low = context - tokens + first_packed / group - a.window + 1;
    if (low < 0) low = 0;

    const bool biased = kGeneral && has_bias(a);
    const float unit = biased ? 1.0f : a.scale * 1.44269504f;
    const auto finish = [&](float(&scores)[kTiles][4], int tile, float(&shrink)[2]) {
      const int first = tile * S::kKeys;
      if (biased) bias_scores(scores, a, first, state.position, state.slope, state.head);
      if (first + S::kKeys - 1 > all_high || first < all_low) {
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int key = first + j * 8 + 2 * (lane % 4) + e % 2, r = e / 2;
            const bool seen = key <= state.last[r] && (a.window == 0 || state.position[r] - key < a.window);
            if (!seen) scores[j][e] = -INFINITY;
          }
        }
      }
      weigh(scores, state, unit, shrink);
    };
    uint32_t weights[kTiles / 2][4];
    const auto round = [&](const float(&scores)[kTiles][4]) {
#pragma unroll
      for (int s = 0; s < kTiles / 2; ++s) {
        const float(&l)[4] = scores[2 * s];
        const float(&h)[4] = scores[2 * s + 1];
        weights[s][0] = rounded_pair<T>(l[0], l[1]);
        weights[s][1] = rounded_pair<T>(l[2], l[3]);
        weights[s][2] = rounded_pair<T>(h[0], h[1]);
        weights[s][3] = rounded_pair<T>(h[2], h[3]);
      }
    };

    // Tiles start at multiples of kKeys whatever the rows, so that a row meets its keys in the same company.
    int tile = low / S::kKeys;
    const int end = high / S::kKeys + 1;
    const bool fresh =
        kGeneral && p.rope.k != nullptr;  // the sequence has one row, and brings the key of its own position
    const int own = fresh ? high : -1;
    TileCopier<T, kDim, kGroups> copier{a.block_table + place.seq * a.block_table_stride,
                                        static_cast<uint32_t>(a.block_stride / 8),
                                        static_cast<uint32_t>(kv_head * a.block_size * S::kPieces),
                                        __ffs(a.block_size) - 1,
                                        low,
                                        high,
                                        own,
                                        {}};
    const auto stage = [&](T* of, int t) { return of + (t & 1) * S::kTile; };
    const T* q = all_q + thread / kGroupThreads * S::kGroupQ;
    const auto load_keys = [&](int t) {
      copier.find(t * S::kKeys);
      copier.template copy<kGeneral>(a.k_cache, t * S::kKeys, stage(keys, t));
      if (fresh && own / S::kKeys == t)
        place_fresh<T, kDim, kGroups>(p.rope, first_row, kv_head, place.tile == 0, false, stage(keys, t),
                                      own % S::kKeys);
    };
    load_keys(tile);
    commit_copies();
    // The values of tile t and, where there are more, the keys of the next.
    const auto load = [&](int t) {
      copier.template copy<kGeneral>(a.v_cache, t * S::kKeys, stage(values, t));
      if (fresh && own / S::kKeys == t)
        place_fresh<T, kDim, kGroups>(p.rope, first_row, kv_head, place.tile == 0, true, stage(values, t),
                                      own % S::kKeys);
      if (t + 1 < end) load_keys(t + 1);
      commit_copies();
    };
    load(tile);
    wait_copies<1>();
    if (fresh && p.rope.table != nullptr) {
      __syncthreads();
      const int rows = packed - first_packed < S::kRows ? packed - first_packed : S::kRows, half = p.rope.half;
      const float* cosine = p.rope.table + p.rope.positions[first_row] * p.rope.table_stride;
      for (int i = thread; i < rows * half; i += S::kThreads) {
        const int r = i / half, low_at = i % half, high_at = low_at + half;
        T* of = all_q + r / 64 * S::kGroupQ;
        turn(of[panel_place<S::kPanel, 64>(r % 64, low_at / 8) + low_at % 8],
             of[panel_place<S::kPanel, 64>(r % 64, high_at / 8) + high_at % 8], cosine[low_at], cosine[half + low_at]);
      }
    }
    if constexpr (S::kWide) show_to_products();
    __syncthreads();
    if (!idle) {
      float scores[kTiles][4], shrink[2];
      Products::begin();
      Products::scores(scores, q, stage(keys, tile));
      Products::template wait<0>(scores);
      finish(scores, tile, shrink);
      round(scores);
    }
    for (; tile + 1 < end; ++tile) {
      wait_copies<0>();
      if constexpr (S::kWide) show_to_products();
      __syncthreads();
      if (idle) {
        load(tile + 1);
        continue;
      }
      float scores[kTiles][4], shrink[2];
      Products::begin();
      Products::scores(scores, q, stage(keys, tile + 1));
      Products::sums(state.sums, weights, stage(values, tile));
      load(tile + 1);
      Products::template wait<1>(scores);
      finish(scores, tile + 1, shrink);
      Products::template wait<0>(state.sums);
      if (__any_sync(kAllLanes, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) state.sums[n][e] *= shrink[e / 2];
        }
      }
      round(scores);
    }
    wait_copies<0>();
    if constexpr (S::kWide) show_to_products();
    __syncthreads();
    if (idle) return;
    Products::begin();
    Products::sums(state.sums, weights, stage(values, tile));
    Products::template wait<0>(state.sums);

    // The rows go out by way of the warp's part of q, 16 bytes a lane.
    T* staged = all_q + thread / kGroupThreads * S::kGroupQ;
    const int warp_first = thread / kWarpSize % 4 * 16;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float weight = state.weight[r];
      weight += __shfl_xor_sync(kAllLanes, weight, 1);
      weight += __shfl_xor_sync(kAllLanes, weight, 2);
      const int head = kv_head * group + (warp_row + lane / 4 + 8 * r) % group;
      const float share = share_of_sums(a, head, __fmul_rn(state.top[r], unit), weight);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        T* to = staged + panel_place<S::kPanel, 64>(warp_first + lane / 4 + 8 * r, n) + 2 * (lane % 4);
        *reinterpret_cast<uint32_t*>(to) =
            rounded_pair<T>(state.sums[n][2 * r] * share, state.sums[n][2 * r + 1] * share);
      }
    }
    __syncwarp();
#pragma unroll 4
    for (int i = lane; i < 16 * S::kPieces; i += kWarpSize) {
      const int r = i / S::kPieces, piece = i % S::kPieces, row = warp_row + r;
      if (row >= packed) break;
      T* out = static_cast<T*>(a.out) + (first_row + row / group) * a.out_stride +
               (int64_t{kv_head} * group + row % group) * kDim + piece * 8;
      *reinterpret_cast<uint4*>(out) =
          *reinterpret_cast<const uint4*>(staged + panel_place<S::kPanel, 64>(warp_first + r, piece));
    }
  }
}

// A launch for one head dimension; the definitions of attention_<dim>.cu.
template <int kDim>
cudaError_t prefill(const TileParams& p, cudaStream_t stream);

template <class T, int kDim, int kGroups>
cudaError_t start_prefill(const TileParams& p, cudaStream_t stream) {
  using S = PrefillShape<T, kDim, kGroups>;
  const AttentionParams& a = p.a;
  const bool general = has_bias(a) || p.rope.k != nullptr;
  const int64_t group = a.n_heads / a.n_kv_heads, tiles = blocks_for(a.rows * group, S::kRows) + a.seqs;
  return launch("attention_prefill",
                general ? prefill_kernel<T, kDim, kGroups, true> : prefill_kernel<T, kDim, kGroups, false>,
                dim3(static_cast<unsigned>(tiles * a.n_kv_heads)), S::kThreads, S::kShared, stream, p);
}
template <class T, int kDim>
cudaError_t start_prefill(const TileParams& p, cudaStream_t stream) {
  if (!has_warpgroup_products()) return start_prefill<T, kDim, 1>(p, stream);
  if constexpr (kDim <= 128) {  // else registers are too few
    const int64_t blocks = p.a.rows * p.a.n_heads / PrefillShape<T, kDim, 3>::kRows;
    if (blocks >= int64_t{2} * device_limits().multiprocessors) return start_prefill<T, kDim, 3>(p, stream);
  }
  return start_prefill<T, kDim, 2>(p, stream);
}
#define SLUICE_PREFILL(dim)                                                                                    \
  namespace sluice::kernels {                                                                                  \
  template <>                                                                                                  \
  cudaError_t prefill<dim>(const TileParams& p, cudaStream_t stream) {                                         \
    return p.a.type == Type::kBF16 ? start_prefill<bf16, dim>(p, stream) : start_prefill<f16, dim>(p, stream); \
  }                                                                                                            \
  }

}  // namespace sluice::kernels
