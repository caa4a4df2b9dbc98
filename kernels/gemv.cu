// SPDX-License-Identifier: Apache-2.0
#include "gemv.h"

#include "device.h"
#include "launch.h"
#include "tensor_core.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kChunk = 128;  // columns that a warp takes at a time: 256 bytes of a row, half a warp's load
constexpr int kTile = 8;     // rows of weights, and of x, of one product
constexpr int kPiece = kTile * kChunk / 8;  // 16-byte packs of a tile's chunk
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
  const float* bias = p.bias != nullptr ? p.bias + blockIdx.z * (p.gated ? 2 : 1) * p.n : nullptr;  // of the group
  if (bias != nullptr) gate += bias[n];
  if (p.gated) {
    if (bias != nullptr) up += bias[p.n + n];
    gate = activated(p.function, rounded<T>(gate)) * rounded<T>(up);
  } else if (p.function != Function::kNone) {
    gate = activated(p.function, rounded<T>(gate));
  }
  if (p.residual != nullptr) gate += to_float(static_cast<const T*>(p.residual)[t * p.residual_stride + n]);
  store<T>(p, t, n, gate);
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

// Elements between rows of x in shared memory: whole chunks, and neighbours 64 bytes apart in the banks.
__host__ __device__ __forceinline__ int64_t x_pitch(int64_t k) { return (k + kChunk - 1) / kChunk * kChunk + 32; }

// Where the rows of x lie as the products take them: all of them in shared memory; a chunk at a time beside the
// weights; or in global memory.
enum class Place { kShared, kRing, kGlobal };

// Shared memory of a block of gemv_kernel, in order.
template <int kM, int kN, Place kX, int kStages>
struct Layout {
  static constexpr int kPieces = kM + (kX == Place::kRing ? kN : 0);  // of a warp's stage
  static constexpr int kRing = kStages * kPieces * kPiece;            // uint4 of a warp
  static constexpr int kBuffers = kN <= 2 ? 2 : 1;                    // of sums: with two, one barrier per tile
  static __host__ __device__ int rows(const GemvParams& p) {          // of x that have sums
    return p.weights == nullptr && p.rows < kN * kTile ? static_cast<int>(p.rows) : kN * kTile;
  }
  static __host__ __device__ int sums(const GemvParams& p) {
    return kWarps * rows(p) * kM * kTile;
  }  // floats of a buffer
  static __host__ __device__ size_t bytes(const GemvParams& p) {
    const size_t own =
        kX == Place::kShared ? kMostNormed * kWarps * 4 + static_cast<size_t>(p.rows * x_pitch(p.k)) * 2 : 0;
    return size_t{kWarps} * kRing * sizeof(uint4) + static_cast<size_t>(sums(p)) * kBuffers * 4 + own;
  }
};

// Rows of x into shared memory, normalised in the order of norm.cu, for the same bits. `weights`: of this thread's
// first packs of a row.
template <class T>
__device__ __forceinline__ void take_rows(const GemvParams& p, const T* x, int rows, T* to, float* work,
                                          const Pack<float, kPack<T>> (&weights)[2]) {
  constexpr int N = kPack<T>, kAtOnce = 4;
  using Few = Pack<T, N>;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int k = static_cast<int>(p.k), pitch = static_cast<int>(x_pitch(p.k)), step = kThreads * N;
  const int first = static_cast<int>(threadIdx.x) * N;
  for (int at = static_cast<int>(threadIdx.x); at < rows * (pitch - k); at += kThreads)
    to[at / (pitch - k) * pitch + k + at % (pitch - k)] = from_float<T>(0.0f);
  for (int t = 0; t < rows; t += kAtOnce) {
    float sums[kAtOnce] = {};
#pragma unroll 2
    for (int i = first; i < k; i += step) {
      Few v[kAtOnce];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r)
        if (t + r < rows) v[r] = *reinterpret_cast<const Few*>(x + (t + r) * p.x_stride + i);
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        if (t + r >= rows) continue;
        *reinterpret_cast<Few*>(to + (t + r) * pitch + i) = v[r];
#pragma unroll
        for (int e = 0; e < N; ++e) sums[r] += to_float(v[r].at[e]) * to_float(v[r].at[e]);
      }
    }
    if (p.norm_weight == nullptr) continue;
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      if (t + r >= rows) continue;
      const float sum = warp_sum(sums[r]);
      if (lane == 0) work[(t + r) * kWarps + warp] = sum;
    }
  }
  __syncthreads();
  if (p.norm_weight == nullptr) return;
  for (int t = 0; t < rows; t += kAtOnce) {
    float scales[kAtOnce];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += t + r < rows ? work[(t + r) * kWarps + w] : 0.0f;
      scales[r] = 1.0f / sqrtf(sum / static_cast<float>(k) + p.norm_eps);
    }
    int round = 0;
#pragma unroll 1
    for (int i = first; i < k; i += step, ++round) {
      const Pack<float, N> w = round == 0   ? weights[0]
                               : round == 1 ? weights[1]
                                            : *reinterpret_cast<const Pack<float, N>*>(p.norm_weight + i);
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        if (t + r >= rows) continue;
        Few v = *reinterpret_cast<const Few*>(to + (t + r) * pitch + i);
#pragma unroll
        for (int e = 0; e < N; ++e) v.at[e] = from_float<T>(rounded<T>(to_float(v.at[e]) * scales[r]) * w.at[e]);
        *reinterpret_cast<Few*>(to + (t + r) * pitch + i) = v;
      }
    }
  }
  __syncthreads();
}

// Grid: (blocks that fill the device once, or n / (8 kM); rows / (8 kN); groups), 256 threads. Job: 8 kM rows of
// weights (half of them gates, half what they multiply, when gated) times 8 kN rows of x on tensor cores, and again in
// strides of the grid. The warps take columns in turns, 128 at a time, and their sums are added in order of the warp;
// the order of a row's sum depends on k alone. Columns are dealt to lanes 8 at a time, which permutes k alike in both
// operands. Each warp keeps kStages chunks of weights under way, across tiles too; the first are issued before the
// kernel before has ended. Precondition: k is a multiple of 8, rows of x and weight are 16-byte aligned; gated has an
// even kM; kX = kShared: all rows are of one tile. Bytes moved: n * k * sizeof(T) (twice when gated) per 8 kN rows of a
// group, once; x comes from L2, once per block if kShared, else once per tile.
template <class T, int kM, int kN, Place kX, int kStages>
__global__ void __launch_bounds__(kThreads, kN <= 2 ? 2 : 1) gemv_kernel(const GemvParams p) {
  using L = Layout<kM, kN, kX, kStages>;
  constexpr int kRows = kTile * kN, kCols = kTile * kM;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int high = L::rows(p);
  uint4* ring = shared_as<uint4>() + warp * L::kRing;                             // [stage][piece][row][pack]
  float* all = reinterpret_cast<float*>(shared_as<uint4>() + kWarps * L::kRing);  // [buffer][warp][row of x][column]
  float* work = all + L::sums(p) * L::kBuffers;
  T* kept = reinterpret_cast<T*>(work + kMostNormed * kWarps);
  // Half a warp copies a row's chunk; in odd rows each four packs change places with their neighbours, so that the
  // reads of a product meet all banks.
  const int half = lane / 16, pack = lane % 16, put = half * 16 + (pack ^ half * 4);
  const int g = lane / 4, within = lane % 4 * 8, take = g * 16 + lane % 4, swapped = g % 2 * 4;
  const int columns = p.gated ? kCols / 2 : kCols;  // of out, of a tile
  const int64_t tiles = (p.n + columns - 1) / columns;
  const int chunks = static_cast<int>((p.k + kChunk - 1) / kChunk);
  const int steps = warp < chunks ? (chunks - 1 - warp) / kWarps + 1 : 0;

  const bool grouped = p.weights != nullptr;
  if (grouped) after_previous();
  const Span span = span_of(p);
  const int64_t row_stride = int64_t{gridDim.y} * kRows;
  for (int64_t first_t = span.begin + int64_t{blockIdx.y} * kRows; first_t < span.end; first_t += row_stride) {
    // What is loaded next: a step of a tile, into a stage.
    int64_t next_tile = blockIdx.x;
    int next_step = 0, next_stage = 0;
    const T* weight[kM];
    int left[kM];  // rows that are there, from this lane's first
    const auto aim = [&] {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const int64_t n = next_tile * columns + (p.gated ? m % (kM / 2 + kM % 2) : m) * kTile + half;
        left[m] = n < p.n ? static_cast<int>(p.n - n < kTile ? p.n - n : kTile) : 0;
        const int64_t row = left[m] > 0 ? n + (p.gated && m >= kM / 2 ? p.n : 0) : 0;
        weight[m] = static_cast<const T*>(span.weight) + row * p.weight_stride + pack * 8;
      }
    };
    const auto load = [&](uint4* piece, const T* from, int64_t stride, int rows, int step) {
      const int k = (step * kWarps + warp) * kChunk;
      const bool in = k + pack * 8 < p.k;
#pragma unroll
      for (int i = 0; i < kTile / 2; ++i)
        copy_async(piece + i * 32 + put, from + 2 * i * stride + k, in && 2 * i < rows);
    };
    const auto load_weights = [&] {
#pragma unroll
      for (int m = 0; m < kM; ++m)
        load(ring + (next_stage * L::kPieces + m) * kPiece, weight[m], p.weight_stride, left[m], next_step);
    };
    const auto load_x = [&](int stage, int step) {
      if constexpr (kX == Place::kRing) {
#pragma unroll
        for (int j = 0; j < kN; ++j) {
          const int64_t t = first_t + 8 * j + half;
          load(ring + (stage * L::kPieces + kM + j) * kPiece, static_cast<const T*>(p.x) + t * p.x_stride + pack * 8,
               p.x_stride, static_cast<int>(span.end - t), step);
        }
      }
    };
    const auto advance = [&] {
      next_stage = next_stage + 1 == kStages ? 0 : next_stage + 1;
      if (++next_step < steps) return;
      next_step = 0;
      next_tile += gridDim.x;
      aim();
    };

    aim();
    if (steps > 0) {
      for (int s = 0; s < kStages; ++s) {
        load_weights();
        if (kX != Place::kRing) commit_copies();
        advance();
      }
    }
    Pack<float, kPack<T>> norm_weights[2];
    if (kX == Place::kShared && p.norm_weight != nullptr) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t at = (int64_t{threadIdx.x} + i * kThreads) * kPack<T>;
        if (at < p.k) norm_weights[i] = *reinterpret_cast<const Pack<float, kPack<T>>*>(p.norm_weight + at);
      }
    }
    let_next_begin();
    if (!grouped) after_previous();
    if (kX == Place::kRing && steps > 0) {
      for (int s = 0, step = 0; s < kStages; ++s, step = step + 1 == steps ? 0 : step + 1) {
        load_x(s, step);
        commit_copies();
      }
    }
    if (kX == Place::kShared)
      take_rows<T>(p, static_cast<const T*>(p.x) + first_t * p.x_stride, static_cast<int>(span.end - first_t), kept,
                   work, norm_weights);

    const T* rows[kN];  // of x, from this lane's columns on
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const int64_t t = first_t + 8 * j + g;
      rows[j] = nullptr;
      if (t < span.end)
        rows[j] =
            (kX == Place::kShared ? kept + (8 * j + g) * x_pitch(p.k) : static_cast<const T*>(p.x) + t * p.x_stride) +
            within;
    }
    int stage = 0, turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x, ++turn) {
      float sums[kM][(kN + 1) / 2][4] = {};
      for (int s = 0; s < steps; ++s) {
        wait_copies<kStages - 1>();
        __syncwarp();
        const int k = (s * kWarps + warp) * kChunk;
        const uint4 zero = make_uint4(0, 0, 0, 0);
        const uint4* piece = ring + stage * L::kPieces * kPiece + take;
#pragma unroll
        for (int part = 0; part < kChunk / 32; ++part) {
          const int at = part * 4 ^ swapped;
          uint4 w[kM], x[kN];
#pragma unroll
          for (int m = 0; m < kM; ++m) w[m] = piece[m * kPiece + at];
#pragma unroll
          for (int j = 0; j < kN; ++j) {
            if (kX == Place::kRing) {
              x[j] = piece[(kM + j) * kPiece + at];
            } else {
              const bool in = rows[j] != nullptr && (kX == Place::kShared || k + part * 32 + within < p.k);
              x[j] = in ? *reinterpret_cast<const uint4*>(rows[j] + k + part * 32) : zero;
            }
          }
#pragma unroll
          for (int j = 0; j < kN; j += 2) {
            const uint4 &low = x[j], &high_row = j + 1 < kN ? x[j + 1] : zero;
            const uint32_t a[2][4] = {{low.x, high_row.x, low.y, high_row.y}, {low.z, high_row.z, low.w, high_row.w}};
#pragma unroll
            for (int m = 0; m < kM; ++m) {
              const uint32_t b[2][2] = {{w[m].x, w[m].y}, {w[m].z, w[m].w}};
              mma<T>(sums[m][j / 2], a[0], b[0]);
              mma<T>(sums[m][j / 2], a[1], b[1]);
            }
          }
        }
        __syncwarp();
        stage = stage + 1 == kStages ? 0 : stage + 1;
        load_weights();
        load_x(next_stage, next_step);
        commit_copies();
        advance();
      }

      float* own = all + turn % L::kBuffers * L::sums(p);
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        if (rows[j] == nullptr) continue;
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
          for (int e = 0; e < 2; ++e)
            own[(warp * high + 8 * j + g) * kCols + m * kTile + 2 * (lane % 4) + e] = sums[m][j / 2][j % 2 * 2 + e];
        }
      }
      __syncthreads();
      const int count = (span.end - first_t < kRows ? static_cast<int>(span.end - first_t) : kRows) * columns;
      for (int i = (static_cast<int>(threadIdx.x) + turn * kWarpSize) % kThreads; i < count; i += kThreads) {
        const int t = i / columns, n = i % columns;
        if (tile * columns + n >= p.n) continue;
        float sum = 0, up = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
          sum += own[(w * high + t) * kCols + n];
          if (kM % 2 == 0 && p.gated) up += own[(w * high + t) * kCols + kCols / 2 + n];
        }
        finish<T>(p, first_t + t, tile * columns + n, sum, up);
      }
      if (L::kBuffers == 1) __syncthreads();  // the sums are read before the next are written
    }
    wait_copies<0>();
    if (first_t + row_stride < span.end) __syncthreads();
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
  return blocks_of_y(p.rows, p.weights == nullptr ? each : each * p.groups);
}
unsigned groups_of(const GemvParams& p) { return p.weights == nullptr ? 1 : static_cast<unsigned>(p.groups); }

template <class T, int kM, int kN, Place kX, int kStages>
cudaError_t start(const GemvParams& p, cudaStream_t stream) {
  const size_t shared = Layout<kM, kN, kX, kStages>::bytes(p);
  const unsigned tiles = blocks_for(p.n, kTile * kM / (p.gated ? 2 : 1));
  const unsigned fill = p.weights == nullptr ? blocks_at_once(shared, 2) : tiles;
  return launch("gemv", gemv_kernel<T, kM, kN, kX, kStages>,
                dim3(tiles < fill ? tiles : fill, row_blocks(p, 8 * kN), groups_of(p)), kThreads, shared, stream, p,
                Start::kEarly);
}

bool can_keep(const GemvParams& p) {
  return p.weights == nullptr && p.rows <= kTile &&
         Layout<2, 1, Place::kShared, 2>::bytes(p) <= device_limits().shared_of_block;
}

template <class T>
cudaError_t start_tiled(const GemvParams& p, cudaStream_t stream) {
  constexpr size_t kMostKept = 32 * 1024;  // of x that a norm does not need there
  const int64_t rows = p.weights == nullptr ? p.rows : (p.rows + p.groups - 1) / p.groups;
  const bool rings = p.norm_weight == nullptr && p.weights == nullptr && rows <= kTile &&
                     static_cast<size_t>(rows * x_pitch(p.k)) * 2 > kMostKept &&
                     Layout<4, 1, Place::kRing, 2>::bytes(p) <= device_limits().shared_of_block;
  if (rings) return start<T, 4, 1, Place::kRing, 2>(p, stream);
  if (can_keep(p))
    return p.gated ? start<T, 2, 1, Place::kShared, 2>(p, stream) : start<T, 1, 1, Place::kShared, 4>(p, stream);
  if (rows <= 8) return start<T, 2, 1, Place::kGlobal, 2>(p, stream);
  if (rows <= 16) return start<T, 2, 2, Place::kGlobal, 2>(p, stream);
  if (rows <= 32) return start<T, 2, 4, Place::kGlobal, 2>(p, stream);
  return start<T, 2, 8, Place::kGlobal, 2>(p, stream);
}

}  // namespace

bool gemv_can_norm(const GemvParams& p) {
  return tiled(p) && can_keep(p) && reinterpret_cast<uintptr_t>(p.norm_weight) % 32 == 0;
}

cudaError_t gemv(const GemvParams& p, cudaStream_t stream) {
  if (p.out_type != p.type && p.out_type != Type::kF32) return cudaErrorInvalidValue;
  if (p.gated && p.residual != nullptr) return cudaErrorInvalidValue;
  if (p.norm_weight != nullptr && !gemv_can_norm(p)) return cudaErrorInvalidValue;
  if (p.weights != nullptr && (p.residual != nullptr || p.norm_weight != nullptr)) return cudaErrorInvalidValue;
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
