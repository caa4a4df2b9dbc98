// SPDX-License-Identifier: Apache-2.0
#include "experts.h"

#include "device.h"
#include "launch.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = kRowThreads;
constexpr int kWarps = kThreads / kWarpSize;

// Grid: (rows / 8), a warp per row. Job: the row's experts, ascending, and their weights. The best that is not yet
// chosen is found top_k times; lane j keeps choice j. Bytes moved: 4 * experts per row (top_k times, from L1).
__global__ void __launch_bounds__(kThreads) choose_kernel(const RouteParams p) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (row >= p.rows) return;
  const float* logits = p.logits + row * p.logits_stride;
  float last = INFINITY, top = 0, own = 0;
  int last_id = -1, own_id = -1;
  for (int j = 0; j < p.top_k; ++j) {
    float best = -INFINITY;
    int best_id = p.experts;
    for (int e = lane; e < p.experts; e += kWarpSize) {
      const float v = logits[e];
      if (before(last, last_id, v, e) && before(v, e, best, best_id)) {
        best = v;
        best_id = e;
      }
    }
    warp_first(best, best_id);
    if (j == 0) top = best;
    if (lane == j) {
      own = best;
      own_id = best_id;
    }
    last = best;
    last_id = best_id;
  }
  const bool here = lane < p.top_k;
  const float mass = here ? expf(own - top) : 0.0f;
  float total = mass;
  if (!p.renormalise) {
    total = 0;
    for (int e = lane; e < p.experts; e += kWarpSize) total += expf(logits[e] - top);
  }
  total = warp_sum(total);
  int rank = 0;
  for (int j = 0; j < p.top_k; ++j) {
    const int other = __shfl_sync(kAllLanes, own_id, j);
    if (other < own_id || (other == own_id && j < lane)) ++rank;
  }
  if (!here) return;
  p.chosen[row * p.top_k + rank] = own_id;
  p.weights[row * p.weights_stride + rank] = mass / total;
}

// Grid: (local + 1), a block per local expert and one for the places of none. Job: where the expert's places begin, and
// its rows in ascending order. Bytes moved: 4 * rows * top_k read twice, from L2.
__global__ void __launch_bounds__(kThreads) deal_kernel(const RouteParams p) {
  int* work = shared_as<int>();  // [2][warps]
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int expert = static_cast<int>(blockIdx.x);
  const int64_t n = p.rows * p.top_k;
  const auto local_id = [&](int64_t i) {
    const int id = p.chosen[i] - p.first_expert;
    return id >= 0 && id < p.local ? id : -1;
  };
  int below = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const int id = local_id(i);
    below += id >= 0 && id < expert;
  }
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) below += __shfl_xor_sync(kAllLanes, below, step);
  if (lane == 0) work[warp] = below;
  __syncthreads();
  int begin = 0;
  for (int w = 0; w < kWarps; ++w) begin += work[w];
  if (threadIdx.x == 0) p.offsets[expert] = begin;
  if (expert == p.local) {
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      if (local_id(i) < 0) p.places[i] = -1;
      if (i >= begin) p.rows_of[i] = 0;
    }
    return;
  }
  int turn = 1;
  for (int64_t base = 0; base < n; base += kThreads, turn ^= 1) {
    const int64_t i = base + threadIdx.x;
    const bool mine = i < n && local_id(i) == expert;
    const unsigned all = __ballot_sync(kAllLanes, mine);
    if (lane == 0) work[turn * kWarps + warp] = __popc(all);
    __syncthreads();
    int place = begin + __popc(all & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) place += work[turn * kWarps + w];
      begin += work[turn * kWarps + w];
    }
    if (!mine) continue;
    p.places[i] = place;
    p.rows_of[place] = static_cast<int32_t>(i / p.top_k);
  }
}

// Grid: (width / (256 N), rows). Job: N columns of one row. Bytes moved: (top_k + 1) * width * sizeof(T) per row.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) combine_kernel(const CombineParams p) {
  const int64_t i = row_column(N);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    float sums[N] = {};
    for (int j = 0; j < p.top_k; ++j) {
      const int64_t place = p.places[t * p.top_k + j];
      if (place < 0) continue;
      const float weight = p.weights[t * p.weights_stride + j];
      const Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(p.x) + place * p.x_stride + i);
#pragma unroll
      for (int e = 0; e < N; ++e) sums[e] += weight * to_float(v.at[e]);
    }
    Pack<T, N> out;
#pragma unroll
    for (int e = 0; e < N; ++e) out.at[e] = from_float<T>(sums[e]);
    *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(p.out) + t * p.out_stride + i) = out;
  }
}

// Grid: (width / (256 N), rows). Job: N columns of one row. Bytes moved: 3 * width * sizeof(T) per row.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) add_gated_kernel(const AddGatedParams p) {
  const int64_t i = row_column(N);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    const float gate = 1.0f / (1.0f + expf(-to_float(static_cast<const T*>(p.gate)[t * p.gate_stride])));
    Pack<T, N>* place = reinterpret_cast<Pack<T, N>*>(static_cast<T*>(p.out) + t * p.out_stride + i);
    const Pack<T, N> x = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(p.x) + t * p.x_stride + i);
    Pack<T, N> v = *place;
#pragma unroll
    for (int e = 0; e < N; ++e) v.at[e] = from_float<T>(to_float(v.at[e]) + gate * to_float(x.at[e]));
    *place = v;
  }
}

// Grid: (width / 256, rows). Job: one column of one row. Bytes moved: 3 * width * sizeof(T) per row.
template <class T>
__global__ void __launch_bounds__(kThreads) clamped_swiglu_kernel(const ClampedSwigluParams p) {
  const int64_t i = row_column(1);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    const T* in = static_cast<const T*>(p.in) + t * p.in_stride + 2 * i;
    const float gate = fminf(to_float(in[0]), 7.0f), up = fminf(fmaxf(to_float(in[1]), -7.0f), 7.0f);
    static_cast<T*>(p.out)[t * p.out_stride + i] = from_float<T>((up + 1.0f) * gate / (1.0f + expf(-1.702f * gate)));
  }
}

}  // namespace

cudaError_t clamped_swiglu(const ClampedSwigluParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    return launch("clamped_swiglu", clamped_swiglu_kernel<decltype(element)>, over_rows(p.rows, p.width), kThreads, 0,
                  stream, p);
  });
}

cudaError_t route(const RouteParams& p, cudaStream_t stream) {
  if (p.top_k < 1 || p.top_k > kMostChosen || p.top_k > p.experts) return cudaErrorInvalidValue;
  const cudaError_t error =
      launch("choose_experts", choose_kernel, dim3(blocks_for(p.rows, kWarps)), kThreads, 0, stream, p);
  if (error != cudaSuccess) return error;
  return launch("deal_experts", deal_kernel, dim3(static_cast<unsigned>(p.local) + 1), kThreads,
                2 * kWarps * sizeof(int), stream, p);
}

cudaError_t combine(const CombineParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = kPack<T>;
    const bool packed =
        p.width % N == 0 && aligned16(p.x, p.x_stride, sizeof(T)) && aligned16(p.out, p.out_stride, sizeof(T));
    return launch_rows("combine", packed, N, combine_kernel<T, N>, combine_kernel<T, 1>, p.rows, p.width, stream, p);
  });
}

cudaError_t add_gated(const AddGatedParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = kPack<T>;
    const bool packed =
        p.width % N == 0 && aligned16(p.x, p.x_stride, sizeof(T)) && aligned16(p.out, p.out_stride, sizeof(T));
    return launch_rows("add_gated", packed, N, add_gated_kernel<T, N>, add_gated_kernel<T, 1>, p.rows, p.width, stream,
                       p);
  });
}

}  // namespace sluice::kernels
