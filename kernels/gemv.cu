// SPDX-License-Identifier: Apache-2.0
#include "gemv.h"

#include "device.h"
#include "launch.h"
#include "tensor_core.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kChunk = 32;    // columns that a warp takes at a time: 16 bytes per lane and row of weights
constexpr int kInFlight = 4;  // chunks whose loads are issued before the first is used
constexpr int kTile = 16;     // rows of weights of one product
constexpr int kMostNormed = 8;

template <class T>
__device__ __forceinline__ void store(const GemvParams& p, int64_t t, int64_t n, float v) {
  if (p.out_type == Type::kF32) {
    static_cast<float*>(p.out)[t * p.out_stride + n] = v;
  } else {
    static_cast<T*>(p.out)[t * p.out_stride + n] = from_float<T>(v);
  }
}

// What follows the sums: `gate` is the sum itself where nothing is gated.
template <class T>
__device__ __forceinline__ void finish(const GemvParams& p, int64_t t, int64_t n, float gate, float up) {
  if (p.bias != nullptr) gate += p.bias[n];
  if (p.gated) {
    if (p.bias != nullptr) up += p.bias[p.n + n];
    gate = activated(p.function, rounded<T>(gate)) * rounded<T>(up);
  } else if (p.function != Function::kNone) {
    gate = activated(p.function, rounded<T>(gate));
  }
  if (p.residual != nullptr) gate += to_float(static_cast<const T*>(p.residual)[t * p.residual_stride + n]);
  store<T>(p, t, n, gate);
}

// Rows of x, normalised into shared memory in the order of norm.cu, for the same bits.
template <class T>
__device__ __forceinline__ void normalise(const GemvParams& p, T* to, int64_t to_stride, float* work) {
  constexpr int N = kPack<T>;
  for (int64_t t = 0; t < p.rows; ++t) {
    const T* x = static_cast<const T*>(p.x) + t * p.x_stride;
    float sum = 0;
    for (int64_t i = int64_t{threadIdx.x} * N; i < p.k; i += kThreads * N) {
      const Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(x + i);
#pragma unroll
      for (int e = 0; e < N; ++e) sum += to_float(v.at[e]) * to_float(v.at[e]);
    }
    sum = block_sum(sum, work + (t % 2) * kWarps);
    const float scale = 1.0f / sqrtf(sum / static_cast<float>(p.k) + p.norm_eps);
    for (int64_t i = int64_t{threadIdx.x} * N; i < p.k; i += kThreads * N) {
      Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(x + i);
#pragma unroll
      for (int e = 0; e < N; ++e) v.at[e] = from_float<T>(rounded<T>(to_float(v.at[e]) * scale) * p.norm_weight[i + e]);
      *reinterpret_cast<Pack<T, N>*>(to + t * to_stride + i) = v;
    }
  }
  __syncthreads();
}

// What a block is about: all rows and one matrix, or those of a group.
struct Span {
  int64_t begin, end;
  const void* weight;
};
__device__ __forceinline__ Span span_of(const GemvParams& p) {
  if (p.weights == nullptr) return {0, p.rows, p.weight};
  return {p.offsets[blockIdx.z], p.offsets[blockIdx.z + 1], p.weights[blockIdx.z]};
}

// Floats of shared memory: the warps' sums, or before them the normalised rows.
template <int kM, int kN>
constexpr size_t kSums = size_t{kWarps} * kM* kTile* kN * 8;
constexpr size_t kWork = 2 * kWarps;

// Grid: (n / (16 kM), or n / 16 when gated; rows / (8 kN); groups), 256 threads. Job: 16 kM rows of weights times 8 kN
// rows of x on tensor cores, and again in strides of the grid where a group has more. The warps take columns in turns,
// 32 at a time, and their sums are added in order of the warp; the order of a row's sum depends on k alone. Columns are
// dealt to lanes 8 at a time, which permutes k alike in both operands. Precondition: k is a multiple of 8, rows of x
// and weight are 16-byte aligned; gated has kM = 2. Bytes moved: n * k * sizeof(T) (twice when gated) per 8 kN rows of
// a group, once; x comes from L2.
template <class T, int kM, int kN, bool kNorm>
__global__ void __launch_bounds__(kThreads) gemv_kernel(const GemvParams p) {
  float* work = shared_as<float>();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int g = lane / 4, within = lane % 4 * 8;
  const int64_t first_n = int64_t{blockIdx.x} * kTile * (p.gated ? 1 : kM);
  const Span span = span_of(p);

  const T* x = static_cast<const T*>(p.x);
  int64_t x_stride = p.x_stride;
  if (kNorm) {
    T* to = reinterpret_cast<T*>(work + kWork);
    normalise<T>(p, to, p.k + kPack<T>, work);
    x = to;
    x_stride = p.k + kPack<T>;
  }

  const T* weight[kM][2];  // rows g and g + 8 of each tile, at this lane's columns; null where there is none
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t n = first_n + (p.gated ? 0 : m * kTile) + 8 * h + g;
      const int64_t row = p.gated ? m * p.n + n : n;
      weight[m][h] = n < p.n ? static_cast<const T*>(span.weight) + row * p.weight_stride + within : nullptr;
    }
  }
  for (int64_t first_t = span.begin + int64_t{blockIdx.y} * 8 * kN; first_t < span.end;
       first_t += int64_t{gridDim.y} * 8 * kN) {
    const T* rows[kN];
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const int64_t t = first_t + 8 * j + g;
      rows[j] = t < span.end ? x + t * x_stride + within : nullptr;
    }

    const uint4 zero = make_uint4(0, 0, 0, 0);
    float sums[kM][kN][4] = {};
    const int64_t chunks = (p.k + kChunk - 1) / kChunk;
    for (int64_t c = warp; c < chunks; c += kWarps * kInFlight) {
      uint4 w[kInFlight][kM][2];
#pragma unroll
      for (int f = 0; f < kInFlight; ++f) {
        const int64_t k = (c + f * kWarps) * kChunk;
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
          for (int h = 0; h < 2; ++h)
            w[f][m][h] = weight[m][h] != nullptr && k + within < p.k ? load_once(weight[m][h] + k) : zero;
        }
      }
#pragma unroll
      for (int f = 0; f < kInFlight; ++f) {
        const int64_t k = (c + f * kWarps) * kChunk;
#pragma unroll
        for (int j = 0; j < kN; ++j) {
          const bool here = rows[j] != nullptr && k + within < p.k;
          const uint4 v = here ? *reinterpret_cast<const uint4*>(rows[j] + k) : zero;
          const uint32_t b[2][2] = {{v.x, v.y}, {v.z, v.w}};
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            const uint4 &low = w[f][m][0], &high = w[f][m][1];
            const uint32_t a[2][4] = {{low.x, high.x, low.y, high.y}, {low.z, high.z, low.w, high.w}};
            mma<T>(sums[m][j], a[0], b[0]);
            mma<T>(sums[m][j], a[1], b[1]);
          }
        }
      }
    }

    if (kNorm) __syncthreads();  // the rows lie where the sums go
    constexpr int kRows = 8 * kN, kCols = kM * kTile;
    float* all = work + kWork;  // [warps][rows][columns]
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int j = 0; j < kN; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int n = m * kTile + g + 8 * (e / 2), t = 8 * j + 2 * (lane % 4) + e % 2;
          all[(warp * kRows + t) * kCols + n] = sums[m][j][e];
        }
      }
    }
    __syncthreads();
    const int columns = p.gated ? kTile : kCols;
    for (int i = static_cast<int>(threadIdx.x); i < kRows * columns; i += kThreads) {
      const int t = i / columns, n = i % columns;
      if (first_t + t >= span.end || first_n + n >= p.n) continue;
      float sum = 0, up = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        sum += all[(w * kRows + t) * kCols + n];
        if (kM == 2 && p.gated) up += all[(w * kRows + t) * kCols + kTile + n];
      }
      finish<T>(p, first_t + t, first_n + n, sum, up);
    }
    __syncthreads();  // the sums are read before the next rows write theirs
  }
}

// Grid: (n / 8, rows / 4, groups), a warp per row of weights. Job: the same without tensor cores: f32, and shapes or
// addresses that the other kernel does not take. Precondition: none for N = 1, else k is a multiple of N and rows are
// 16-byte aligned. Bytes moved: n * k * sizeof(T) (twice when gated) per 4 rows.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) plain_kernel(const GemvParams p) {
  constexpr int kRows = 4;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t n = int64_t{blockIdx.x} * kWarps + warp;
  if (n >= p.n) return;
  const Span span = span_of(p);
  for (int64_t first_t = span.begin + int64_t{blockIdx.y} * kRows; first_t < span.end;
       first_t += int64_t{gridDim.y} * kRows) {
    float sums[2][kRows] = {};
    for (int part = 0; part < (p.gated ? 2 : 1); ++part) {
      const T* weight = static_cast<const T*>(span.weight) + (part * p.n + n) * p.weight_stride;
      for (int64_t k = lane * N; k < p.k; k += kWarpSize * N) {
        const Pack<T, N> w = *reinterpret_cast<const Pack<T, N>*>(weight + k);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (first_t + r >= span.end) break;
          const T* x = static_cast<const T*>(p.x) + (first_t + r) * p.x_stride;
          const Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(x + k);
#pragma unroll
          for (int e = 0; e < N; ++e) sums[part][r] += to_float(w.at[e]) * to_float(v.at[e]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float gate = warp_sum(sums[0][r]), up = p.gated ? warp_sum(sums[1][r]) : 0.0f;
      if (lane == 0 && first_t + r < span.end) finish<T>(p, first_t + r, n, gate, up);
    }
  }
}

bool tiled(const GemvParams& p) {
  return p.type != Type::kF32 && p.k % 8 == 0 && aligned16(p.x, p.x_stride, 2) &&
         aligned16(p.weight, p.weight_stride, 2);
}

// Blocks that share the rows, `each` at a time: of groups, as if all had equally many.
unsigned row_blocks(const GemvParams& p, int64_t each) {
  if (p.weights == nullptr) return blocks_for(p.rows, each);
  return blocks_for(p.rows, each * p.groups);
}
unsigned groups_of(const GemvParams& p) { return p.weights == nullptr ? 1 : static_cast<unsigned>(p.groups); }

template <class T, int kM, int kN, bool kNorm = false>
cudaError_t start(const GemvParams& p, cudaStream_t stream) {
  const dim3 grid(blocks_for(p.n, kTile * (p.gated ? 1 : kM)), row_blocks(p, 8 * kN), groups_of(p));
  size_t shared = kSums<kM, kN> * sizeof(float);
  if (kNorm) {
    const size_t rows = static_cast<size_t>(p.rows * (p.k + kPack<T>)) * sizeof(T);
    if (rows > shared) shared = rows;
  }
  return launch("gemv", gemv_kernel<T, kM, kN, kNorm>, grid, kThreads, shared + kWork * sizeof(float), stream, p);
}

template <class T>
cudaError_t start_tiled(const GemvParams& p, cudaStream_t stream) {
  if (p.norm_weight != nullptr) return p.gated ? start<T, 2, 1, true>(p, stream) : start<T, 1, 1, true>(p, stream);
  const int64_t rows = p.weights == nullptr ? p.rows : (p.rows + p.groups - 1) / p.groups;
  if (rows <= 8) return p.gated ? start<T, 2, 1>(p, stream) : start<T, 1, 1>(p, stream);
  if (rows <= 16) return p.gated ? start<T, 2, 2>(p, stream) : start<T, 1, 2>(p, stream);
  if (rows <= 32) return start<T, 2, 4>(p, stream);
  return start<T, 2, 8>(p, stream);
}

}  // namespace

bool gemv_can_norm(const GemvParams& p) {
  return tiled(p) && p.rows <= kMostNormed && p.rows * (p.k + 8) * 2 <= 96 * 1024;
}

cudaError_t gemv(const GemvParams& p, cudaStream_t stream) {
  if (p.out_type != p.type && p.out_type != Type::kF32) return cudaErrorInvalidValue;
  if (p.gated && p.residual != nullptr) return cudaErrorInvalidValue;
  if (p.norm_weight != nullptr && !gemv_can_norm(p)) return cudaErrorInvalidValue;
  if (p.weights != nullptr && (p.bias != nullptr || p.residual != nullptr || p.norm_weight != nullptr))
    return cudaErrorInvalidValue;
  if (p.weights != nullptr && p.groups == 0) return cudaSuccess;
  if (tiled(p)) return p.type == Type::kBF16 ? start_tiled<bf16>(p, stream) : start_tiled<f16>(p, stream);
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    const dim3 grid(blocks_for(p.n, kWarps), row_blocks(p, 4), groups_of(p));
    const bool packed =
        p.k % kPack<T> == 0 && aligned16(p.x, p.x_stride, sizeof(T)) && aligned16(p.weight, p.weight_stride, sizeof(T));
    return packed ? launch("gemv", plain_kernel<T, kPack<T>>, grid, kThreads, 0, stream, p)
                  : launch("gemv", plain_kernel<T, 1>, grid, kThreads, 0, stream, p);
  });
}

}  // namespace sluice::kernels
