// SPDX-License-Identifier: Apache-2.0
#include "device.h"
#include "launch.h"
#include "rows.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = 256;

// Grid: (rows), 256 threads. Job: one row; the residual is updated, then the sum is normalised.
// Precondition: width * 4 + 64 bytes of shared memory fit; N divides width where N > 1, and rows are 16-byte aligned.
// Bytes moved: width * sizeof(T) * (2, or 4 with a residual) per row, and the weights, which stay in L2.
template <class T, int N, bool kMean>
__global__ void __launch_bounds__(kThreads) norm_kernel(const NormParams p) {
  float* work = shared_as<float>();              // [2][8]: sums of warps
  float* row = work + 2 * kThreads / kWarpSize;  // [width]
  const int64_t t = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + t * p.x_stride;
  T* residual = p.residual == nullptr ? nullptr : static_cast<T*>(p.residual) + t * p.residual_stride;
  T* out = static_cast<T*>(p.out) + t * p.out_stride;
  const int width = static_cast<int>(p.width), first = static_cast<int>(threadIdx.x) * N, step = kThreads * N;

  float sum = 0;  // of squares, or of values where the mean is taken off
  for (int i = first; i < width; i += step) {
    Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(x + i);
    if (residual != nullptr) {
      Pack<T, N>* stored = reinterpret_cast<Pack<T, N>*>(residual + i);
      const Pack<T, N> r = *stored;
#pragma unroll
      for (int e = 0; e < N; ++e) v.at[e] = residual_sum<T>(to_float(r.at[e]) + to_float(v.at[e]));
      *stored = v;
    }
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float f = to_float(v.at[e]);
      row[i + e] = f;
      sum += kMean ? f : f * f;
    }
  }
  const float n = static_cast<float>(width);
  sum = block_sum(sum, work);
  float mean = 0;
  if (kMean) {
    mean = sum / n;
    float squares = 0;
    for (int i = first; i < width; i += step) {
#pragma unroll
      for (int e = 0; e < N; ++e) squares += (row[i + e] - mean) * (row[i + e] - mean);
    }
    sum = block_sum(squares, work + kThreads / kWarpSize);
  }
  const float scale = 1.0f / sqrtf(sum / n + p.eps);
  for (int i = first; i < width; i += step) {
    Pack<T, N> v;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float f = (row[i + e] - mean) * scale;
      if (kMean) {
        v.at[e] = from_float<T>(f * p.weight[i + e] + (p.bias != nullptr ? p.bias[i + e] : 0.0f));
      } else {
        v.at[e] = from_float<T>(rounded<T>(f) * p.weight[i + e]);
      }
    }
    *reinterpret_cast<Pack<T, N>*>(out + i) = v;
  }
}

template <bool kMean>
cudaError_t norm(const NormParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    const bool packed = p.width % kPack<T> == 0 && aligned16(p.x, p.x_stride, sizeof(T)) &&
                        aligned16(p.out, p.out_stride, sizeof(T)) &&
                        aligned16(p.residual, p.residual_stride, sizeof(T));
    const size_t shared = (2 * kThreads / kWarpSize + static_cast<size_t>(p.width)) * sizeof(float);
    const dim3 grid(static_cast<unsigned>(p.rows));
    return packed ? launch("norm", norm_kernel<T, kPack<T>, kMean>, grid, kThreads, shared, stream, p)
                  : launch("norm", norm_kernel<T, 1, kMean>, grid, kThreads, shared, stream, p);
  });
}

}  // namespace

cudaError_t rms_norm(const NormParams& p, cudaStream_t stream) { return norm<false>(p, stream); }
cudaError_t layer_norm(const NormParams& p, cudaStream_t stream) { return norm<true>(p, stream); }

}  // namespace sluice::kernels
