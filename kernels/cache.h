// SPDX-License-Identifier: Apache-2.0
// The paged cache: [blocks, n_kv_heads, block_size, head_dim] for K and for V, consecutive blocks `block_stride`
// elements apart. A slot is block * block_size + offset.
#pragma once

#include "types.h"

namespace sluice::kernels {

// Rotates the first 2 * half elements of each head of q and k in place (half-split pairs, f32 arithmetic), then writes
// k and v to the cache at `slots`; slot -1 writes nothing.
struct RopeCacheParams {
  void *q, *k;               // type [rows, n_heads * head_dim], [rows, n_kv_heads * head_dim]
  const void* v;             // type [rows, n_kv_heads * head_dim]
  const float* table;        // f32 [positions, 2 * half]: cosines, then sines; null rotates nothing
  const int32_t* positions;  // [rows]
  const int32_t* slots;      // [rows]
  void *k_cache, *v_cache;   // type
  int64_t rows;
  int64_t q_stride, k_stride, v_stride, table_stride, block_stride;
  int32_t n_heads, n_kv_heads, head_dim, half, block_size;
  Type type;
};
cudaError_t rope_and_cache(const RopeCacheParams& p, cudaStream_t stream);

// out[t] = cosines, then sines of positions[t] in a sequence of n = max(lengths[t], positions[t] + 1) tokens. Up to
// `original` tokens the frequencies are row 0; beyond, row 1, or where growth > 0 base ^ (-i / half) with base = theta
// * (factor * n / original - (factor - 1)) ^ growth.
struct RotationParams {
  float* out;                // [rows, 2 * half]
  const int32_t* positions;  // [rows]
  const int32_t* lengths;    // [rows]
  const float* frequencies;  // [2, half], rows `frequency_stride` apart
  int64_t rows, out_stride, frequency_stride, original;
  int32_t half;
  float scale;  // of cosines and sines
  float theta, factor, growth;
};
cudaError_t rotations(const RotationParams& p, cudaStream_t stream);

// Copies whole blocks, pair after pair in order: a copy may be copied on. Bytes are even.
struct CopyBlocksParams {
  void* cache;
  const int32_t* pairs;  // [n, 2]: from, to
  int64_t n, block_bytes, stride_bytes;
};
cudaError_t copy_blocks(const CopyBlocksParams& p, cudaStream_t stream);

}  // namespace sluice::kernels
