// SPDX-License-Identifier: Apache-2.0
#include "cache.h"

#include "device.h"
#include "launch.h"

namespace sluice::kernels {
namespace {

constexpr int kHeadsPerBlock = 4;
constexpr int kThreads = kHeadsPerBlock * kWarpSize;

// Grid: (rows, (n_heads + 2 n_kv_heads) / 4), one warp per head of q, k or v. Job: rotate q and k in place, write k and
// v to the row's slot. Precondition: positions are inside the table; 2 * half <= head_dim. Bytes moved: sizeof(T) *
// head_dim * (2 n_heads + 5 n_kv_heads) per row.
template <class T>
__global__ void __launch_bounds__(kThreads) rope_kernel(const RopeCacheParams p) {
  const int64_t t = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int head = static_cast<int>(blockIdx.y) * kHeadsPerBlock + static_cast<int>(threadIdx.x) / kWarpSize;
  if (head >= p.n_heads + 2 * p.n_kv_heads) return;
  const bool is_q = head < p.n_heads, is_k = !is_q && head < p.n_heads + p.n_kv_heads;
  if (!is_q) head -= is_k ? p.n_heads : p.n_heads + p.n_kv_heads;

  T* to = nullptr;
  const int64_t slot = p.slots[t];
  if (!is_q && slot >= 0) {
    const int64_t block = slot / p.block_size, offset = slot % p.block_size;
    to = static_cast<T*>(is_k ? p.k_cache : p.v_cache) + block * p.block_stride +
         (int64_t{head} * p.block_size + offset) * p.head_dim;
  }
  if (!is_q && !is_k) {
    const T* v = static_cast<const T*>(p.v) + t * p.v_stride + int64_t{head} * p.head_dim;
    if (to == nullptr) return;
    for (int i = lane; i < p.head_dim; i += kWarpSize) to[i] = v[i];
    return;
  }
  T* x = (is_q ? static_cast<T*>(p.q) + t * p.q_stride : static_cast<T*>(p.k) + t * p.k_stride) +
         int64_t{head} * p.head_dim;
  const int half = p.table != nullptr ? p.half : 0;
  if (half > 0) {
    const float* cosine = p.table + p.positions[t] * p.table_stride;
    for (int i = lane; i < half; i += kWarpSize) {
      T first = x[i], second = x[i + half];
      turn(first, second, cosine[i], cosine[half + i]);
      x[i] = first;
      x[i + half] = second;
      if (to != nullptr) {
        to[i] = first;
        to[i + half] = second;
      }
    }
  }
  if (to == nullptr) return;
  for (int i = 2 * half + lane; i < p.head_dim; i += kWarpSize) to[i] = x[i];
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
    const dim3 grid(static_cast<unsigned>(p.rows), blocks_for(p.n_heads + 2 * p.n_kv_heads, kHeadsPerBlock));
    return launch("rope_and_cache", rope_kernel<decltype(element)>, grid, kThreads, 0, stream, p);
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
