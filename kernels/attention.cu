// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include "attention_decode.h"
#include "attention_prefill.h"
#include "attention_tile.h"

namespace sluice::kernels {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;

// The sequence that owns a row, or -1. Every lane agrees.
__device__ __forceinline__ int sequence_of(const AttentionParams& a, int64_t row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int base = 0; base < a.seqs; base += kWarpSize) {
    const int s = base + lane;
    const unsigned owner = __ballot_sync(kAllLanes, s < a.seqs && a.first_row[s] <= row && row < a.first_row[s + 1]);
    if (owner != 0) return base + __ffs(static_cast<int>(owner)) - 1;
  }
  return -1;
}

// Grid: (rows, n_heads / 4), a warp per row and head. Job: attention without tensor cores, for f32 and for head
// dimensions that have no tile; the lanes take a key each, 32 at a time, from multiples of 32, so that a row's order of
// sums is fixed. Precondition: none beyond attention.h. Bytes moved: 2 * keys * head_dim * sizeof(T) per row and head.
template <class T>
__global__ void __launch_bounds__(kThreads) plain_kernel(const AttentionParams a) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t row = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y) * kWarps + warp, dim = a.head_dim;
  if (head >= a.n_heads) return;
  float* q = shared_as<float>() + warp * (2 * dim + kWarpSize);  // [dim], then sums [dim], then weights [32]
  float* sums = q + dim;
  float* weights = sums + dim;
  T* out = static_cast<T*>(a.out) + row * a.out_stride + int64_t{head} * dim;
  const int seq = sequence_of(a, row);
  for (int d = lane; d < dim; d += kWarpSize) {
    sums[d] = 0;
    q[d] = to_float(static_cast<const T*>(a.q)[row * a.q_stride + int64_t{head} * dim + d]);
    if (seq < 0) out[d] = from_float<T>(0.0f);
  }
  if (seq < 0) return;
  __syncwarp();
  const int position = a.context[seq] - (a.first_row[seq + 1] - static_cast<int>(row));
  const int low = a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
  const int high = a.all_keys ? a.context[seq] - 1 : position;
  const float slope = a.alibi_slopes != nullptr ? a.alibi_slopes[head] : 0.0f;
  const int kv_head = head / (a.n_heads / a.n_kv_heads);
  const int32_t* table = a.block_table + seq * a.block_table_stride;
  const auto place = [&](int key) {
    const int block = key / a.block_size, offset = key - block * a.block_size;
    return table[block] * a.block_stride + (int64_t{kv_head} * a.block_size + offset) * dim;
  };
  const bool sinks = a.sinks != nullptr;
  float top = sinks ? a.sinks[head] : -INFINITY, weight = sinks ? 1.0f : 0.0f;
  for (int first = low / kWarpSize * kWarpSize; first <= high; first += kWarpSize) {
    const int key = first + lane;
    float score = -INFINITY;
    if (key >= low && key <= high) {
      const T* k = static_cast<const T*>(a.k_cache) + place(key);
      float dot = 0;
      for (int d = 0; d < dim; ++d) dot += q[d] * to_float(k[d]);
      score = (a.slopes_rounded ? dot + rounded_slope(slope, key) : dot) * a.scale;
      if (a.soft_cap > 0) score = a.soft_cap * tanhf(score / a.soft_cap);
      if (a.distance_bias != nullptr) {
        score += bias_of(a, head, position - key);
      } else if (!a.slopes_rounded) {
        score += slope * static_cast<float>(key - position);
      }
    }
    const float new_top = fmaxf(top, warp_max(score));  // finite: a tile holds at least one key that is seen
    const float shrink = expf(top - new_top), w = expf(score - new_top);
    top = new_top;
    weight = weight * shrink + warp_sum(w);
    __syncwarp();
    weights[lane] = w;
    __syncwarp();
    const int begin = low > first ? low : first, end = high < first + kWarpSize - 1 ? high : first + kWarpSize - 1;
    for (int d = lane; d < dim; d += kWarpSize) {
      float sum = sums[d] * shrink;
      for (int j = begin; j <= end; ++j)
        sum += weights[j - first] * to_float(static_cast<const T*>(a.v_cache)[place(j) + d]);
      sums[d] = sum;
    }
  }
  for (int d = lane; d < dim; d += kWarpSize) out[d] = from_float<T>(sums[d] / weight);
}

// The workspace begins with so many words whatever is used: launches of different grids share it.
constexpr int kMostBlocks = 2048;
size_t part_rows(int blocks) { return static_cast<size_t>(blocks) * 2 * kDecodeRows; }

bool tiled(const AttentionParams& a) {
  const int dim = a.head_dim;
  return (dim == 64 || dim == 80 || dim == 96 || dim == 128 || dim == 256) && a.type != Type::kF32 &&
         a.block_size % 16 == 0 && (a.block_size & (a.block_size - 1)) == 0 && aligned16(a.q, a.q_stride, 2) &&
         aligned16(a.k_cache, a.block_stride, 2) && aligned16(a.v_cache, a.block_stride, 2) && a.out_stride % 2 == 0 &&
         reinterpret_cast<uintptr_t>(a.out) % 4 == 0;
}

template <int kDim>
cudaError_t run_tiles(const AttentionParams& a, const RopeCacheParams* rope, cudaStream_t stream) {
  if (a.deterministic || !a.decode_only) {
    TileParams p{};
    p.a = a;
    if (rope != nullptr) p.rope = *rope;
    p.zero_rest = true;
    p.skip_single = !a.deterministic;
    const cudaError_t error = prefill<kDim>(p, stream);
    if (a.deterministic || error != cudaSuccess) return error;
  }
  if (a.blocks < 1 || a.blocks > kMostBlocks) return cudaErrorInvalidValue;
  DecodeParams p{};
  p.a = a;
  if (rope != nullptr) p.rope = *rope;
  p.zero_rest = a.decode_only;
  p.group = a.n_heads / a.n_kv_heads;
  p.arrived = static_cast<uint32_t*>(a.workspace);
  p.tops = reinterpret_cast<float*>(p.arrived + kMostBlocks);
  p.sums = p.tops + part_rows(a.blocks) * 2;
  return decode<kDim>(p, stream);
}

cudaError_t start_tiles(const AttentionParams& a, const RopeCacheParams* rope, cudaStream_t stream) {
  switch (a.head_dim) {
    case 64:
      return run_tiles<64>(a, rope, stream);
    case 80:
      return run_tiles<80>(a, rope, stream);
    case 96:
      return run_tiles<96>(a, rope, stream);
    case 128:
      return run_tiles<128>(a, rope, stream);
    default:
      return run_tiles<256>(a, rope, stream);
  }
}

}  // namespace

cudaError_t attention(const AttentionParams& a, cudaStream_t stream) {
  if (a.rows == 0) return cudaSuccess;
  if (tiled(a)) return start_tiles(a, nullptr, stream);
  return with_type(a.type, [&](auto element) {
    const dim3 grid(static_cast<unsigned>(a.rows), blocks_for(a.n_heads, kWarps));
    const size_t shared = kWarps * (2 * static_cast<size_t>(a.head_dim) + kWarpSize) * sizeof(float);
    return launch("attention", plain_kernel<decltype(element)>, grid, kThreads, shared, stream, a);
  });
}

cudaError_t rope_and_attention(const RopeCacheParams& rope, const AttentionParams& a, cudaStream_t stream) {
  if (a.decode_only && !a.all_keys && a.rows > 0 && tiled(a)) return start_tiles(a, &rope, stream);
  if (const cudaError_t error = rope_and_cache(rope, stream); error != cudaSuccess) return error;
  return attention(a, stream);
}

int attention_blocks(int multiprocessors, int64_t head_dim) {
  const int blocks = multiprocessors * (head_dim > 128 ? 1 : 2);
  return blocks < kMostBlocks ? blocks : kMostBlocks;
}

size_t attention_workspace_bytes(int blocks, int64_t head_dim) {
  return (kMostBlocks + part_rows(blocks) * static_cast<size_t>(head_dim + 2)) * sizeof(float);
}

}  // namespace sluice::kernels
