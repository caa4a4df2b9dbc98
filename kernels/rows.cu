// SPDX-License-Identifier: Apache-2.0
#include "rows.h"

#include "device.h"
#include "launch.h"
#include "tensor_core.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = kRowThreads;

// Grid: (width / 256, rows). Job: one element of one row. Bytes moved: width * (sizeof(T) + sizeof(S)) per row.
template <class T, class S>
__global__ void __launch_bounds__(kThreads) embed_kernel(const EmbedParams p) {
  const int64_t i = row_column(1);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    const int64_t id = p.ids[t] - p.first_id;
    const bool here = id >= 0 && id < p.vocab;
    const float v = here ? to_float(static_cast<const S*>(p.table)[id * p.table_stride + i]) : 0.0f;
    static_cast<T*>(p.out)[t * p.out_stride + i] = from_float<T>(v);
  }
}

// Grid: (width / (256 N), rows). Job: N columns of one row. Bytes moved: 3 * width * sizeof(T) per row.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) gated_kernel(const GatedParams p) {
  const int64_t i = row_column(N);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    const T* in = static_cast<const T*>(p.in) + t * p.in_stride;
    const Pack<T, N> gate = *reinterpret_cast<const Pack<T, N>*>(in + i);
    const Pack<T, N> up = *reinterpret_cast<const Pack<T, N>*>(in + p.width + i);
    Pack<T, N> v;
#pragma unroll
    for (int e = 0; e < N; ++e)
      v.at[e] = from_float<T>(activated(p.function, to_float(gate.at[e])) * to_float(up.at[e]));
    *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(p.out) + t * p.out_stride + i) = v;
  }
}

// Grid: (rows, width / (1024 N)). Job: 4 N columns of one row, whose loads are issued before x is summed. Precondition:
// none for N = 1, else rows are 16-byte aligned and N divides both widths. Bytes moved: 3 * width * sizeof(T) per row,
// and x from L2 for each block.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) normed_gated_kernel(const NormedGatedParams p) {
  constexpr int kSteps = 4;
  float* work = shared_as<float>();
  const int64_t t = blockIdx.x, first = (int64_t{blockIdx.y} * kSteps * kThreads + threadIdx.x) * N;
  const T* in = static_cast<const T*>(p.in) + t * p.in_stride;
  after_previous();
  Pack<T, N> gate[kSteps] = {}, up[kSteps] = {};
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int64_t i = first + int64_t{s} * kThreads * N;
    if (i >= p.width) break;
    gate[s] = *reinterpret_cast<const Pack<T, N>*>(in + i);
    up[s] = *reinterpret_cast<const Pack<T, N>*>(in + p.width + i);
  }
  float sum = 0;
  const T* x = static_cast<const T*>(p.x) + t * p.x_stride;
  for (int64_t i = int64_t{threadIdx.x} * N; i < p.x_width; i += kThreads * N) {
    const Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(x + i);
#pragma unroll
    for (int e = 0; e < N; ++e) sum += to_float(v.at[e]) * to_float(v.at[e]);
  }
  sum = block_sum(sum, work);
  const float scale = p.factor / sqrtf(sum / static_cast<float>(p.x_width) + p.eps);
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int64_t i = first + int64_t{s} * kThreads * N;
    if (i >= p.width) break;
    Pack<T, N> v;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float g = to_float(gate[s].at[e]) * scale, u = to_float(up[s].at[e]) * scale;
      v.at[e] = from_float<T>(activated(p.function, g) * u);
    }
    *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(p.out) + t * p.out_stride + i) = v;
  }
}

// Grid: (width / 256, rows). Job: one element of one row. Bytes moved: 2 * width * sizeof(T) per row.
template <class T>
__global__ void __launch_bounds__(kThreads) scale_columns_kernel(const ScaleColumnsParams p) {
  const int64_t i = row_column(1);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    T* place = static_cast<T*>(p.inout) + t * p.stride + i;
    *place = from_float<T>(to_float(*place) * p.factors[i]);
  }
}

// Grid: (width / (256 N), rows). Job: N columns of one row. Bytes moved: 2 * width * sizeof(T) per row.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) activation_kernel(const ActivationParams p) {
  const int64_t i = row_column(N);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    Pack<T, N>* place = reinterpret_cast<Pack<T, N>*>(static_cast<T*>(p.inout) + t * p.stride + i);
    Pack<T, N> v = *place;
#pragma unroll
    for (int e = 0; e < N; ++e) v.at[e] = from_float<T>(activated(p.function, to_float(v.at[e])));
    *place = v;
  }
}

// Grid: (width / 256, rows). Job: one element of one row. Bytes moved: 2 * width * sizeof(T) per row.
template <class T>
__global__ void __launch_bounds__(kThreads) scale_kernel(const ScaleParams p) {
  const int64_t i = row_column(1);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    T* place = static_cast<T*>(p.inout) + t * p.stride + i;
    const float v = to_float(*place);
    *place = from_float<T>(p.cap > 0 ? p.cap * tanhf(v / p.cap) : v * p.factor);
  }
}

// Grid: (rows * heads / 8), a warp per head. Job: one head. Bytes moved: 2 * width * sizeof(T) per head.
template <class T>
__global__ void __launch_bounds__(kThreads) head_norm_kernel(const HeadNormParams p) {
  const int64_t head = int64_t{blockIdx.x} * (kThreads / kWarpSize) + threadIdx.x / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if (head >= p.rows * p.heads) return;
  T* x = static_cast<T*>(p.inout) + head / p.heads * p.stride + head % p.heads * p.width;
  float sum = 0;
  for (int64_t i = lane; i < p.width; i += kWarpSize) sum += to_float(x[i]) * to_float(x[i]);
  const float scale = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(p.width) + p.eps);
  for (int64_t i = lane; i < p.width; i += kWarpSize)
    x[i] = from_float<T>(rounded<T>(to_float(x[i]) * scale) * p.weight[i]);
}

// Grid: (width / (256 N), rows). Job: N columns of one row. Bytes moved: 3 * width * sizeof(T) per row.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) add_kernel(const AddParams p) {
  const int64_t i = row_column(N);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    Pack<T, N>* place = reinterpret_cast<Pack<T, N>*>(static_cast<T*>(p.inout) + t * p.stride + i);
    Pack<T, N> v = *place, o = {};
    if (p.other != nullptr)
      o = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(p.other) + t * p.other_stride + i);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      float f = to_float(v.at[e]);
      if (p.bias != nullptr) f += p.bias[i + e];
      if (p.other != nullptr) f += to_float(o.at[e]);
      v.at[e] = residual_sum<T>(f);
    }
    *place = v;
  }
}

// Grid: (row_bytes / (256 sizeof(W)), n). Job: one word of one row. Bytes moved: 2 * row_bytes per row.
template <class W>
__global__ void __launch_bounds__(kThreads) gather_kernel(const GatherParams p) {
  const int64_t i = row_column(1);
  if (i * static_cast<int64_t>(sizeof(W)) >= p.row_bytes) return;
  for (int64_t t = blockIdx.y; t < p.n; t += gridDim.y) {
    const char* from = static_cast<const char*>(p.x) + p.rows[t] * p.x_stride_bytes;
    reinterpret_cast<W*>(static_cast<char*>(p.out) + t * p.out_stride_bytes)[i] = reinterpret_cast<const W*>(from)[i];
  }
}

// Grid: (width / (256 N), rows). Job: N columns of one row. Bytes moved: width * (sizeof(T) + sizeof(S)) per row.
template <class T, class S, int N>
__global__ void __launch_bounds__(kThreads) convert_kernel(const ConvertParams p) {
  const int64_t i = row_column(N);
  if (i >= p.width) return;
  for (int64_t t = blockIdx.y; t < p.rows; t += gridDim.y) {
    const Pack<S, N> in = *reinterpret_cast<const Pack<S, N>*>(static_cast<const S*>(p.in) + t * p.in_stride + i);
    Pack<T, N> out;
#pragma unroll
    for (int e = 0; e < N; ++e) out.at[e] = from_float<T>(to_float(in.at[e]));
    *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(p.out) + t * p.out_stride + i) = out;
  }
}

struct ProbeParams {
  uint32_t* out;
  const uint4* data;
  int64_t n;  // 16-byte words
};

// Grid: (any), 256 threads. Job: every word once, eight loads in flight per thread. Bytes moved: 16 n.
__global__ void __launch_bounds__(kThreads) probe_kernel(const ProbeParams p) {
  constexpr int kInFlight = 8;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  uint32_t sum = 0;
  for (; i + (kInFlight - 1) * stride < p.n; i += kInFlight * stride) {
    uint4 v[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) v[k] = p.data[i + k * stride];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) sum += v[k].x + v[k].y + v[k].z + v[k].w;
  }
  for (; i < p.n; i += stride) sum += p.data[i].x + p.data[i].y + p.data[i].z + p.data[i].w;
  atomicAdd(p.out, sum);
}

}  // namespace

cudaError_t embed(const EmbedParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto out) {
    return with_type(p.table_type, [&](auto in) {
      return launch("embed", embed_kernel<decltype(out), decltype(in)>, over_rows(p.rows, p.width), kThreads, 0, stream,
                    p);
    });
  });
}

cudaError_t gated_activation(const GatedParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = kPack<T>;
    const bool packed =
        p.width % N == 0 && aligned16(p.in, p.in_stride, sizeof(T)) && aligned16(p.out, p.out_stride, sizeof(T));
    return launch_rows("gated", packed, N, gated_kernel<T, N>, gated_kernel<T, 1>, p.rows, p.width, stream, p);
  });
}

cudaError_t normed_gated_activation(const NormedGatedParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = kPack<T>;
    const bool packed = p.width % N == 0 && p.x_width % N == 0 && aligned16(p.in, p.in_stride, sizeof(T)) &&
                        aligned16(p.out, p.out_stride, sizeof(T)) && aligned16(p.x, p.x_stride, sizeof(T));
    const dim3 grid(static_cast<unsigned>(p.rows), blocks_for(p.width, 4 * kThreads * (packed ? N : 1)));
    return launch("normed_gated", packed ? normed_gated_kernel<T, N> : normed_gated_kernel<T, 1>, grid, kThreads,
                  kThreads / kWarpSize * sizeof(float), stream, p, Start::kEarly);
  });
}

cudaError_t scale_columns(const ScaleColumnsParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    return launch("scale_columns", scale_columns_kernel<decltype(element)>, over_rows(p.rows, p.width), kThreads, 0,
                  stream, p);
  });
}

cudaError_t activation(const ActivationParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = kPack<T>;
    const bool packed = p.width % N == 0 && aligned16(p.inout, p.stride, sizeof(T));
    return launch_rows("activation", packed, N, activation_kernel<T, N>, activation_kernel<T, 1>, p.rows, p.width,
                       stream, p);
  });
}

cudaError_t add(const AddParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = kPack<T>;
    const bool packed =
        p.width % N == 0 && aligned16(p.inout, p.stride, sizeof(T)) && aligned16(p.other, p.other_stride, sizeof(T));
    return launch_rows("add", packed, N, add_kernel<T, N>, add_kernel<T, 1>, p.rows, p.width, stream, p);
  });
}

cudaError_t scale(const ScaleParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    return launch("scale", scale_kernel<decltype(element)>, over_rows(p.rows, p.width), kThreads, 0, stream, p);
  });
}

cudaError_t head_norm(const HeadNormParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    const dim3 grid(blocks_for(p.rows * p.heads, kThreads / kWarpSize));
    return launch("head_norm", head_norm_kernel<decltype(element)>, grid, kThreads, 0, stream, p);
  });
}

cudaError_t gather_rows(const GatherParams& p, cudaStream_t stream) {
  const auto fits = [&](int64_t bytes) {
    return (p.row_bytes | p.out_stride_bytes | p.x_stride_bytes | reinterpret_cast<intptr_t>(p.out) |
            reinterpret_cast<intptr_t>(p.x)) %
               bytes ==
           0;
  };
  if (fits(16))
    return launch("gather_rows", gather_kernel<uint4>, over_rows(p.n, p.row_bytes / 16), kThreads, 0, stream, p);
  if (fits(4))
    return launch("gather_rows", gather_kernel<uint32_t>, over_rows(p.n, p.row_bytes / 4), kThreads, 0, stream, p);
  return launch("gather_rows", gather_kernel<uint8_t>, over_rows(p.n, p.row_bytes), kThreads, 0, stream, p);
}

cudaError_t convert(const ConvertParams& p, cudaStream_t stream) {
  return with_type(p.out_type, [&](auto out) {
    return with_type(p.in_type, [&](auto in) {
      using T = decltype(out);
      using S = decltype(in);
      constexpr int N = 4;
      const bool packed = p.width % N == 0 && aligned16(p.in, p.in_stride * 2, sizeof(S)) &&
                          aligned16(p.out, p.out_stride * 2, sizeof(T));
      return launch_rows("convert", packed, N, convert_kernel<T, S, N>, convert_kernel<T, S, 1>, p.rows, p.width,
                         stream, p);
    });
  });
}

cudaError_t read_probe(uint32_t* out, const void* data, size_t bytes, int blocks, cudaStream_t stream) {
  const ProbeParams p{out, static_cast<const uint4*>(data), static_cast<int64_t>(bytes / 16)};
  return launch("read_probe", probe_kernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, stream, p);
}

}  // namespace sluice::kernels
