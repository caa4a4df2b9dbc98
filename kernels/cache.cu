// SPDX-License-Identifier: Apache-2.0
#include "cache.h"

#include "device.h"
#include "launch.h"
#include "tensor_core.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = 128;

// Grid: (rows, threads for all / 128). Job: rotate q and k in place, write k and v to the row's slot; a thread takes N
// elements of a head and the N that they turn with, or N others. Precondition: positions are inside the table; 2 * half
// <= head_dim; where N > 1 it divides half and head_dim, and rows, the cache and the table are 16-byte aligned. Bytes
// moved: sizeof(T) * head_dim * (2 n_heads + 5 n_kv_heads) per row.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) rope_kernel(const RopeCacheParams p) {
  using Elements = Pack<T, N>;
  const int64_t t = blockIdx.x;
  const int half = p.table != nullptr ? p.half : 0, of_head = (p.head_dim - half) / N;
  const int index = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  const int i = index % of_head * N;
  int head = index / of_head;
  if (head >= p.n_heads + 2 * p.n_kv_heads) return;
  const bool is_q = head < p.n_heads, is_k = !is_q && head < p.n_heads + p.n_kv_heads, pair = i < half;
  if (!is_q) head -= is_k ? p.n_heads : p.n_heads + p.n_kv_heads;
  after_previous();

  T* to = nullptr;
  const int slot = p.slots[t];
  if (!is_q && slot >= 0) {
    const int block = slot / p.block_size, offset = slot % p.block_size;
    to = static_cast<T*>(is_k ? p.k_cache : p.v_cache) + block * p.block_stride +
         (int64_t{head} * p.block_size + offset) * p.head_dim;
  }
  if (to == nullptr && !(pair && (is_q || is_k))) return;
  const T* from = is_q   ? static_cast<const T*>(p.q) + t * p.q_stride
                  : is_k ? static_cast<const T*>(p.k) + t * p.k_stride
                         : static_cast<const T*>(p.v) + t * p.v_stride;
  from += int64_t{head} * p.head_dim;
  Elements high = *reinterpret_cast<const Elements*>(from + half + i);
  if (pair) {
    Elements low = *reinterpret_cast<const Elements*>(from + i);
    if (is_q || is_k) {
      constexpr int kFour = N < 4 ? N : 4;
      const float* cosine = p.table + p.positions[t] * p.table_stride + i;
#pragma unroll
      for (int e = 0; e < N; e += kFour) {
        const auto cosines = *reinterpret_cast<const Pack<float, kFour>*>(cosine + e),
                   sines = *reinterpret_cast<const Pack<float, kFour>*>(cosine + half + e);
#pragma unroll
        for (int f = 0; f < kFour; ++f) turn(low.at[e + f], high.at[e + f], cosines.at[f], sines.at[f]);
      }
      T* x = (is_q ? static_cast<T*>(p.q) + t * p.q_stride : static_cast<T*>(p.k) + t * p.k_stride) +
             int64_t{head} * p.head_dim;
      *reinterpret_cast<Elements*>(x + i) = low;
      *reinterpret_cast<Elements*>(x + half + i) = high;
    }
    if (to != nullptr) *reinterpret_cast<Elements*>(to + i) = low;
  }
  if (to != nullptr) *reinterpret_cast<Elements*>(to + half + i) = high;
}

// Grid: (rows), 128 threads. Job: the angles of one row. Bytes moved: 12 * half per row.
__global__ void __launch_bounds__(kThreads) rotations_kernel(const RotationParams p) {
  const int64_t t = blockIdx.x;
  const int position = p.positions[t];
  const int64_t length = p.lengths[t] > position ? p.lengths[t] : position + 1;
  const bool beyond = length > p.original;
  const float* frequencies = p.frequencies + (beyond ? p.frequency_stride : 0);
  const float grown = p.factor * static_cast<float>(length) / static_cast<float>(p.original) - (p.factor - 1);
  const float base = beyond && p.growth > 0 ? p.theta * powf(grown, p.growth) : 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < p.half; i += kThreads) {
    const float exponent = static_cast<float>(i) / static_cast<float>(p.half);
    const float inverse = base > 0
                              ? 1.0f / static_cast<float>(pow(static_cast<double>(base), static_cast<double>(exponent)))
                              : frequencies[i];
    const float angle = static_cast<float>(position) * inverse;
    p.out[t * p.out_stride + i] = cosf(angle) * p.scale;
    p.out[t * p.out_stride + p.half + i] = sinf(angle) * p.scale;
  }
}

// Grid: (block_bytes / (128 sizeof(W))). Job: one word of the block, for all pairs in order, so that a copy may be
// copied on. Bytes moved: 2 n block_bytes.
template <class W>
__global__ void __launch_bounds__(kThreads) copy_kernel(const CopyBlocksParams p) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i * static_cast<int64_t>(sizeof(W)) >= p.block_bytes) return;
  for (int64_t pair = 0; pair < p.n; ++pair) {
    const int64_t from = p.pairs[2 * pair], to = p.pairs[2 * pair + 1];
    if (from == to) continue;
    char* base = static_cast<char*>(p.cache);
    reinterpret_cast<W*>(base + to * p.stride_bytes)[i] = reinterpret_cast<const W*>(base + from * p.stride_bytes)[i];
  }
}

}  // namespace

cudaError_t rope_and_cache(const RopeCacheParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = kPack<T>;
    const int half = p.table != nullptr ? p.half : 0;
    const bool packed = half % N == 0 && p.head_dim % N == 0 && aligned16(p.q, p.q_stride, sizeof(T)) &&
                        aligned16(p.k, p.k_stride, sizeof(T)) && aligned16(p.v, p.v_stride, sizeof(T)) &&
                        aligned16(p.k_cache, p.block_stride, sizeof(T)) &&
                        aligned16(p.v_cache, p.block_stride, sizeof(T)) &&
                        aligned16(p.table, p.table_stride, sizeof(float));
    const int64_t threads = int64_t{p.n_heads + 2 * p.n_kv_heads} * ((p.head_dim - half) / (packed ? N : 1));
    return launch("rope_and_cache", packed ? rope_kernel<T, N> : rope_kernel<T, 1>,
                  dim3(static_cast<unsigned>(p.rows), blocks_for(threads, kThreads)), kThreads, 0, stream, p,
                  Start::kEarly);
  });
}

cudaError_t rotations(const RotationParams& p, cudaStream_t stream) {
  return launch("rotations", rotations_kernel, dim3(static_cast<unsigned>(p.rows)), kThreads, 0, stream, p);
}

cudaError_t copy_blocks(const CopyBlocksParams& p, cudaStream_t stream) {
  const bool wide = (p.block_bytes | p.stride_bytes | reinterpret_cast<intptr_t>(p.cache)) % 16 == 0;
  if (p.n == 0) return cudaSuccess;
  return wide ? launch("copy_blocks", copy_kernel<uint4>, dim3(blocks_for(p.block_bytes / 16, kThreads)), kThreads, 0,
                       stream, p)
              : launch("copy_blocks", copy_kernel<uint16_t>, dim3(blocks_for(p.block_bytes / 2, kThreads)), kThreads, 0,
                       stream, p);
}

}  // namespace sluice::kernels
