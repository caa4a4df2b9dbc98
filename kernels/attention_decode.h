// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores for sequences with one row. The heads of a K/V head's group are packed as rows of a tile;
// all keys of a step, 16 of a K/V head at a time, are dealt evenly to a grid that the device holds at once.
#pragma once

#include "attention_tile.h"
#include "attention_units.h"

namespace sluice::kernels {

struct DecodeParams {
  AttentionParams a;
  RopeCacheParams rope;  // k null: q is rotated and the cache holds all keys
  int group;             // heads of a K/V head
  bool zero_rest;        // clears rows that belong to no sequence
  // Workspace. A block has at most two spans that it shares with others: its first (part 2 b), and one that begins in
  // it and ends in another (part 2 b + 1).
  uint32_t* arrived;  // [blocks]: parts that are written of the span that begins in the block
  float* tops;        // [2 * blocks, kDecodeRows, 2]: largest score (of base 2) and sum of weights
  float* sums;        // [2 * blocks, kDecodeRows, head_dim]
};

template <class T, int kDim>
struct DecodeShape {
  static constexpr int kBlocks = kDim > 128 ? 1 : 2;                      // of a multiprocessor
  static constexpr int kWarps = 4;                                        // of a block, where so much memory is
  static constexpr int kKeys = 16;                                        // of a unit, which one warp takes
  static constexpr int kStages = kDim == 64 ? 5 : kDim <= 96 ? 4 : 3;     // units of a warp in shared memory
  static constexpr int kStride = kDim + 8;                                // elements between rows: no bank conflicts
  static constexpr int kPieces = kDim / 8;                                // 16-byte pieces of a row
  static constexpr int kAtOnce = kPieces > 16 ? 1 : kPieces > 8 ? 2 : 4;  // rows that a warp copies at a time
  static constexpr size_t kTile = size_t{kKeys} * kStride, kStage = 2 * kTile;  // of K or V; both
  static constexpr bool kHoldQ = kDim <= 128;                                   // in registers
  static size_t fixed_bytes(int64_t seqs) {
    return (kTile + 2 * kDim) * sizeof(T) + static_cast<size_t>(seqs) * sizeof(int32_t);
  }
  static constexpr size_t kWarpBytes = kStages * kStage * sizeof(T) + (2 * kDecodeRows + 1) * sizeof(float);
};

// The queries of a span to `q`, and where `own` is not null the sequence's own key and value to it and to the cache. A
// thread takes an element of every row, with the bits of turn().
template <class T, int kDim>
__device__ __forceinline__ void load_queries(const DecodeParams& p, const Span& span, int rows, T* q, T* own) {
  using S = DecodeShape<T, kDim>;
  constexpr int kBatch = 4;
  const RopeCacheParams& rope = p.rope;
  const int64_t row = p.a.first_row[span.seq];
  const int half = rope.k != nullptr && rope.table != nullptr ? rope.half : 0;
  const float* angles = half > 0 ? rope.table + rope.positions[row] * rope.table_stride : nullptr;
  const int slot = own != nullptr && span.row_tile == 0 ? rope.slots[row] : -1;
  const T* from =
      static_cast<const T*>(p.a.q) + row * p.a.q_stride + (span.kv_head * p.group + span.row_tile * kDecodeRows) * kDim;
#pragma unroll 1
  for (int d = static_cast<int>(threadIdx.x); d < kDim; d += static_cast<int>(blockDim.x)) {
    const bool turns = d < 2 * half;
    const int other = !turns ? d : d < half ? d + half : d - half;
    float cosine = 1, sine = 0;
    if (turns) {
      cosine = angles[d < half ? d : other];
      sine = angles[d < half ? other : d];
      if (d < half) sine = -sine;
    }
    const auto turned = [&](T x, T y) {
      return turns ? from_float<T>(__fadd_rn(__fmul_rn(to_float(x), cosine), __fmul_rn(to_float(y), sine))) : x;
    };
    if (own != nullptr) {
      const T* k = static_cast<const T*>(rope.k) + row * rope.k_stride + span.kv_head * kDim;
      const T key = turned(k[d], k[other]);
      const T value = static_cast<const T*>(rope.v)[row * rope.v_stride + span.kv_head * kDim + d];
      own[d] = key;
      own[kDim + d] = value;
      if (slot >= 0) {
        const int block = slot / rope.block_size, offset = slot - block * rope.block_size;
        const int64_t to = block * rope.block_stride + (span.kv_head * rope.block_size + offset) * kDim + d;
        static_cast<T*>(rope.k_cache)[to] = key;
        static_cast<T*>(rope.v_cache)[to] = value;
      }
    }
#pragma unroll 1
    for (int begin = 0; begin < rows; begin += kBatch) {
      T x[kBatch], y[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int r = begin + i < rows ? begin + i : rows - 1;
        x[i] = from[r * kDim + d];
        y[i] = from[r * kDim + other];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        if (begin + i < rows) q[(begin + i) * S::kStride + d] = turned(x[i], y[i]);
    }
  }
}

// A warp's softmax state: of its 16 rows a lane has g = lane / 4 and g + 8.
template <int kDim>
struct DecodeState {
  float sums[kDim / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY};  // largest score, in units of log2
  float weight[2] = {0, 0};               // this lane's share of the sum of weights
};

// Adds the 16 keys from `first` to a warp's state. Rows beyond 8 only where `tall`.
template <class T, int kDim, bool kPlain, class Rows, class Head>
__device__ __forceinline__ void attend_unit(DecodeState<kDim>& state, const AttentionParams& a, const Rows& rows_of,
                                            const T* k, const T* v, int first, const Span& span, bool tall,
                                            const float (&slope)[2], const Head& head) {
  using S = DecodeShape<T, kDim>;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  float scores[2][4] = {};
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    uint32_t rows[4], keys[4];
    rows_of(rows, d);
    load_matrices(keys, k + (lane / 16 * 8 + lane % 8) * S::kStride + d + lane / 8 % 2 * 8);
    const uint32_t left[2] = {keys[0], keys[1]}, right[2] = {keys[2], keys[3]};
    mma<T>(scores[0], rows, left);
    mma<T>(scores[1], rows, right);
  }

  constexpr float kLog2e = 1.44269504f;
  const float scale = a.scale * kLog2e;
  float top[2] = {state.top[0], state.top[1]};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (r == 1 && !tall) continue;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = first + j * 8 + 2 * (lane % 4) + e;
        float& score = scores[j][2 * r + e];
        float s = score * scale;
        if (!kPlain) {
          const int behind = span.high - key;
          if (a.soft_cap > 0) s = a.soft_cap * kLog2e * tanhf(score * a.scale / a.soft_cap);
          if (a.distance_bias != nullptr) {
            s += bias_of(a, head(r), behind) * kLog2e;
          } else if (a.slopes_rounded) {
            s += rounded_slope(slope[r], key) * scale;
          } else {
            s -= slope[r] * kLog2e * static_cast<float>(behind);
          }
        }
        score = key >= span.low && key <= span.high ? s : -INFINITY;
        top[r] = fmaxf(top[r], score);
      }
    }
    top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 1));
    top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 2));
  }
  if (__any_sync(kAllLanes, top[0] != state.top[0] || top[1] != state.top[1])) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (r == 1 && !tall) continue;
      const float shrink = exp2f(state.top[r] - top[r]);  // a unit has a key that is seen: top is finite
      state.top[r] = top[r];
      state.weight[r] *= shrink;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        state.sums[n][2 * r] *= shrink;
        state.sums[n][2 * r + 1] *= shrink;
      }
    }
  }
  uint32_t weights[4] = {};  // (g, keys 0-7), (g + 8, keys 0-7), (g, keys 8-15), (g + 8, keys 8-15)
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (r == 1 && !tall) continue;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float low = exp2f(scores[j][2 * r] - top[r]), high = exp2f(scores[j][2 * r + 1] - top[r]);
      state.weight[r] += low + high;
      weights[2 * j + r] = pair_of<T>(low, high);
    }
  }
#pragma unroll
  for (int n = 0; n < kDim / 8; n += 2) {
    uint32_t values[4];
    load_matrices_transposed(values, v + lane % 16 * S::kStride + n * 8 + lane / 16 * 8);
    const uint32_t left[2] = {values[0], values[1]}, right[2] = {values[2], values[3]};
    mma<T>(state.sums[n], weights, left);
    mma<T>(state.sums[n + 1], weights, right);
  }
}

template <class T>
__device__ __forceinline__ void store_four(T* to, const float4& x) {
  *reinterpret_cast<uint32_t*>(to) = pair_of<T>(x.x, x.y);
  *reinterpret_cast<uint32_t*>(to + 2) = pair_of<T>(x.z, x.w);
}

// Adds up what `parts` parts of a row found: part(i) gives its largest score, its sum of weights and four of its sums.
// Returns those of the whole.
struct Found {
  float top, weight;
  float4 sums;
};
template <int kBatch, class Part>
__device__ __forceinline__ Found add_parts(int parts, const Part& part) {
  Found all{-INFINITY, 0.0f, make_float4(0, 0, 0, 0)};
#pragma unroll 1
  for (int begin = 0; begin < parts; begin += kBatch) {
    Found found[kBatch];
    float top = all.top;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      found[i] = part(begin + i < parts ? begin + i : parts - 1);  // no branch: all loads are under way at once
      if (begin + i >= parts) found[i].top = -INFINITY;
      top = fmaxf(top, found[i].top);
    }
    const float shrink = exp2f(all.top - top);
    all = {top, all.weight * shrink,
           make_float4(all.sums.x * shrink, all.sums.y * shrink, all.sums.z * shrink, all.sums.w * shrink)};
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const float share = exp2f(found[i].top - top);  // 0 where nothing was found
      all.weight += share * found[i].weight;
      all.sums.x += share * found[i].sums.x;
      all.sums.y += share * found[i].sums.y;
      all.sums.z += share * found[i].sums.z;
      all.sums.w += share * found[i].sums.w;
    }
  }
  return all;
}

// Grid: what the device holds at once, 4 warps or fewer. Job: an equal share of the units of a step, which may begin
// and end inside a span; the warps take units in turns and add up what they found at a span's end, and the last block
// to come adds up the parts of a span that is cut. With `rope` also the rotation of q, and of the sequence's own key by
// the block with the span's last unit, which caches it. Old keys are asked for before the kernel before has ended.
// Precondition: head_dim is kDim; block_size is a multiple of 16; q and the cache are 16-byte aligned by row; a
// sequence has at least one key. Bytes moved: 2 * keys * head_dim * sizeof(T) per sequence and K/V head (times row
// tiles of a group, from L2).
// kPlain: no slopes, biases or caps.
template <class T, int kDim, bool kPlain>
__global__ void __launch_bounds__(DecodeShape<T, kDim>::kWarps* kWarpSize, DecodeShape<T, kDim>::kBlocks)
    decode_kernel(const DecodeParams p) {
  using S = DecodeShape<T, kDim>;
  const AttentionParams& a = p.a;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int threads = static_cast<int>(blockDim.x), warps = threads / kWarpSize, b = static_cast<int>(blockIdx.x);
  T* q = shared_as<T>();
  T* own = q + S::kTile;
  T* stages = own + 2 * kDim;                                                               // [warps, kStages, K and V]
  float* tops = reinterpret_cast<float*>(stages + size_t(warps) * S::kStages * S::kStage);  // [warps, kDecodeRows, 2]
  int32_t* words = reinterpret_cast<int32_t*>(tops + warps * 2 * kDecodeRows);              // [warps]
  int32_t* ends = words + warps;                                                            // [seqs]
  const auto stage = [&](int w, int slot) { return stages + (w * S::kStages + slot) * S::kStage; };
  const bool fresh = p.rope.k != nullptr;

  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(S::kTile) / 8; i += threads)
    reinterpret_cast<uint4*>(q)[i] = make_uint4(0, 0, 0, 0);
  const int total = number_units<S::kKeys>(a, p.group, ends, words);
  const int blocks = static_cast<int>(gridDim.x);
  int share = (total + blocks - 1) / blocks;
  if (share < warps) share = warps;
  const int begin = b * share < total ? b * share : total, end = begin + share < total ? begin + share : total;

  int next = begin + warp, cache_block = 0, offset = 0;  // the unit that this warp loads next
  Span loaded{};
  const auto look_up = [&] {
    if (next >= end) return;
    if (next >= loaded.end) loaded = span_of<S::kKeys>(a, p.group, ends, next);
    const unsigned key = static_cast<unsigned>((loaded.first + next - loaded.begin) * S::kKeys);
    const unsigned block = key / static_cast<unsigned>(a.block_size);
    cache_block = a.block_table[loaded.seq * a.block_table_stride + block];
    offset = loaded.kv_head * a.block_size + static_cast<int>(key - block * static_cast<unsigned>(a.block_size));
  };
  const auto load = [&](T* to) {
    if (next < end) {
      const int first = (loaded.first + next - loaded.begin) * S::kKeys, row = lane / S::kPieces;
      const int64_t from = cache_block * a.block_stride + offset * kDim;
      const T* k = static_cast<const T*>(a.k_cache) + from + lane * 8;
      const T* v = static_cast<const T*>(a.v_cache) + from + lane * 8;
      to += row * S::kStride + lane % S::kPieces * 8;
      const int low = loaded.low - first - row, high = loaded.high - (fresh ? 1 : 0) - first - row;
      if (row < S::kAtOnce) {
#pragma unroll
        for (int r = 0; r < S::kKeys; r += S::kAtOnce) {
          const bool valid = r >= low && r <= high;
          copy_async(to + r * S::kStride, k + r * kDim, valid);
          copy_async(to + S::kTile + r * S::kStride, v + r * kDim, valid);
        }
      }
      next += warps;
      look_up();
    }
    commit_copies();
  };

  look_up();
  if (!fresh) after_previous();
#pragma unroll 1
  for (int i = 0; i < S::kStages - 1; ++i) load(stage(warp, i));
  if (fresh) after_previous();
  let_next_begin();
  if (p.zero_rest) {
    const int width = a.n_heads * kDim;
#pragma unroll 1
    for (int64_t t = a.first_row[a.seqs] + b; t < a.rows; t += blocks) {
#pragma unroll 1
      for (int i = 2 * static_cast<int>(threadIdx.x); i < width; i += 2 * threads)
        *reinterpret_cast<uint32_t*>(static_cast<T*>(a.out) + t * a.out_stride + i) = 0;
    }
  }

  const int group = p.group;
  const auto store = [&](const Span& span, int row, int d, const Found& all) {
    const int head = span.kv_head * group + span.row_tile * kDecodeRows + row;
    const float share = share_of_sums(a, head, all.top, all.weight);
    store_four(static_cast<T*>(a.out) + a.first_row[span.seq] * a.out_stride + int64_t{head} * kDim + d,
               make_float4(all.sums.x * share, all.sums.y * share, all.sums.z * share, all.sums.w * share));
  };
  const auto rows_of = [&](const Span& span) {
    const int left = group - span.row_tile * kDecodeRows;
    return left < kDecodeRows ? left : kDecodeRows;
  };
  constexpr int kFours = kDim / 4;
  Span front{}, back{};
  int mine = begin + warp, slot = 0;
#pragma unroll 1
  for (int at = begin; at < end;) {
    const Span span = span_of<S::kKeys>(a, p.group, ends, at);
    if (at == begin) front = span;
    back = span;
    const int stop = span.end < end ? span.end : end, rows = rows_of(span);
    load_queries<T, kDim>(p, span, rows, q, fresh && stop == span.end ? own : nullptr);
    __syncthreads();
    // Matrices (rows 0-7, d), (rows 8-15, d), (rows 0-7, d + 8), (rows 8-15, d + 8): the operand's registers.
    const T* q_lane = q + lane % 16 * S::kStride + lane / 16 * 8;
    uint32_t held[S::kHoldQ ? kDim / 16 : 1][4];
    if (S::kHoldQ) {
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) load_matrices(held[S::kHoldQ ? d : 0], q_lane + d * 16);
    }
    const auto queries = [&](uint32_t(&to)[4], int d) {
      if (S::kHoldQ) {
#pragma unroll
        for (int i = 0; i < 4; ++i) to[i] = held[S::kHoldQ ? d / 16 : 0][i];
      } else {
        load_matrices(to, q_lane + d);
      }
    };
    const auto head = [&](int r) {
      const int row = lane / 4 + 8 * r;
      return span.kv_head * group + span.row_tile * kDecodeRows + (row < rows ? row : 0);
    };
    float slope[2] = {0, 0};
    if (!kPlain && a.alibi_slopes != nullptr) {
#pragma unroll
      for (int r = 0; r < 2; ++r) slope[r] = a.alibi_slopes[head(r)];
    }
    DecodeState<kDim> state;
    for (; mine < stop; mine += warps) {
      load(stage(warp, slot == 0 ? S::kStages - 1 : slot - 1));
      wait_copies<S::kStages - 1>();
      T* k = stage(warp, slot);
      if (fresh && mine == span.end - 1) {
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < 2 * S::kPieces; i += kWarpSize) {
          T* to = k + (i < S::kPieces ? 0 : S::kTile) + span.high % S::kKeys * S::kStride + i % S::kPieces * 8;
          *reinterpret_cast<uint4*>(to) = reinterpret_cast<const uint4*>(own)[i];
        }
      }
      __syncwarp();
      attend_unit<T, kDim, kPlain>(state, a, queries, k, k + S::kTile, (span.first + mine - span.begin) * S::kKeys,
                                   span, rows > 8, slope, head);
      __syncwarp();
      slot = slot + 1 == S::kStages ? 0 : slot + 1;
    }

    // What the warp found goes where its next unit will lie: [kDecodeRows, kStride] sums.
    const int free = slot == 0 ? S::kStages - 1 : slot - 1;
    float* found = reinterpret_cast<float*>(stage(warp, free));
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = lane / 4 + 8 * r;
      state.weight[r] += __shfl_xor_sync(kAllLanes, state.weight[r], 1);
      state.weight[r] += __shfl_xor_sync(kAllLanes, state.weight[r], 2);
      if (row >= rows) continue;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<float2*>(found + row * S::kStride + n * 8 + lane % 4 * 2) =
            make_float2(state.sums[n][2 * r], state.sums[n][2 * r + 1]);
      }
      if (lane % 4 == 0) {
        tops[(warp * kDecodeRows + row) * 2] = state.top[r];
        tops[(warp * kDecodeRows + row) * 2 + 1] = state.weight[r];
      }
    }
    if (lane == 0) words[warp] = free;
    __syncthreads();
    const int place = span.begin >= begin ? 1 : 0;
    const bool shared = span.begin < begin || span.end > end;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < rows * kFours; i += threads) {
      const int row = i / kFours, d = i % kFours * 4;
      const Found all = add_parts<S::kWarps>(warps, [&](int w) {
        const float* from = tops + (w * kDecodeRows + row) * 2;
        const float* sums = reinterpret_cast<const float*>(stage(w, words[w])) + row * S::kStride + d;
        return Found{from[0], from[1], *reinterpret_cast<const float4*>(sums)};
      });
      if (!shared) {
        store(span, row, d, all);
        continue;
      }
      const int64_t to = int64_t{2 * b + place} * kDecodeRows + row;
      *reinterpret_cast<float4*>(p.sums + to * kDim + d) = all.sums;
      if (d == 0) *reinterpret_cast<float2*>(p.tops + 2 * to) = make_float2(all.top, all.weight);
    }
    __syncthreads();
    at = stop;
  }
  wait_copies<0>();
  if (begin >= end) return;

  const bool cut[2] = {front.begin < begin, back.begin >= begin && back.end > end};
  if (!cut[0] && !cut[1]) return;
  __threadfence();
  __syncthreads();
  const auto arrive = [&](const Span& span) {
    const int from = span.begin / share, others = (span.end - 1) / share - from;
    const bool last = atomicAdd(p.arrived + from, 1u) == static_cast<uint32_t>(others);
    if (last) p.arrived[from] = 0;  // for the next launch
    return last ? 1 : 0;
  };
  if (threadIdx.x == 0) words[0] = cut[0] ? arrive(front) : 0;
  if (static_cast<int>(threadIdx.x) == threads - 1) ends[0] = cut[1] ? arrive(back) : 0;
  __syncthreads();
  const bool last[2] = {words[0] != 0, ends[0] != 0};
  if (!last[0] && !last[1]) return;
  __threadfence();
#pragma unroll 1
  for (int i = 0; i < 2; ++i) {
    if (i == 0 ? !last[0] : !last[1]) continue;
    const Span span = i == 0 ? front : back;
    const int from = span.begin / share, parts = (span.end - 1) / share - from + 1;
#pragma unroll 1
    for (int j = static_cast<int>(threadIdx.x); j < rows_of(span) * kFours; j += threads) {
      const int row = j / kFours, d = j % kFours * 4;
      const Found all = add_parts<8>(parts, [&](int part) {
        const int64_t at = int64_t{2 * (from + part) + (part == 0 ? 1 : 0)} * kDecodeRows + row;
        const float2 top = *reinterpret_cast<const float2*>(p.tops + 2 * at);
        return Found{top.x, top.y, *reinterpret_cast<const float4*>(p.sums + at * kDim + d)};
      });
      store(span, row, d, all);
    }
  }
}

// A launch for one head dimension; the definitions of attention_<dim>.cu.
template <int kDim>
cudaError_t decode(const DecodeParams& p, cudaStream_t stream);

template <class T, int kDim>
cudaError_t start_decode(const DecodeParams& p, cudaStream_t stream) {
  using S = DecodeShape<T, kDim>;
  constexpr size_t kReserved = 1024;  // of every block
  const size_t fixed = S::fixed_bytes(p.a.seqs), most = device_limits().shared / S::kBlocks;
  size_t warps = S::kWarps;
  while (warps > 1 && kReserved + fixed + warps * S::kWarpBytes > most) --warps;
  const bool plain = p.a.alibi_slopes == nullptr && p.a.distance_bias == nullptr && p.a.soft_cap <= 0;
  return launch("attention_decode", plain ? decode_kernel<T, kDim, true> : decode_kernel<T, kDim, false>,
                dim3(static_cast<unsigned>(p.a.blocks)), static_cast<int>(warps) * kWarpSize,
                fixed + warps * S::kWarpBytes, stream, p, Start::kEarly);
}

#define SLUICE_DECODE(dim)                                                                                   \
  namespace sluice::kernels {                                                                                \
  template <>                                                                                                \
  cudaError_t decode<dim>(const DecodeParams& p, cudaStream_t stream) {                                      \
    return p.a.type == Type::kBF16 ? start_decode<bf16, dim>(p, stream) : start_decode<f16, dim>(p, stream); \
  }                                                                                                          \
  }

}  // namespace sluice::kernels
