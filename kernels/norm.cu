// SPDX-License-Identifier: Apache-2.0
#include "device.h"
#include "launch.h"
#include "rows.h"
#include "tensor_core.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = 256;

// Packs of a row that a thread keeps in registers; what is beyond is read again.
constexpr int kHeld = 4;

// Grid: (rows), 256 threads. Job: one row; the residual is updated, then the sum is normalised.
// Precondition: N divides width where N > 1, and rows and weights are 16-byte aligned. Bytes moved: width * sizeof(T) *
// (2, or 4 with a residual) per row, and the weights, which stay in L2.
template <class T, int N, bool kMean>
__global__ void __launch_bounds__(kThreads) norm_kernel(const NormParams p) {
  float* work = shared_as<float>();  // [2][8]: sums of warps
  const int64_t t = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + t * p.x_stride;
  T* residual = p.residual == nullptr ? nullptr : static_cast<T*>(p.residual) + t * p.residual_stride;
  T* out = static_cast<T*>(p.out) + t * p.out_stride;
  const int width = static_cast<int>(p.width), first = static_cast<int>(threadIdx.x) * N, step = kThreads * N;
  const T* summed = residual != nullptr ? residual : x;
  after_previous();

  Pack<T, N> held[kHeld] = {}, added[kHeld] = {};
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int i = first + h * step;
    if (i >= width) break;
    held[h] = *reinterpret_cast<const Pack<T, N>*>(x + i);
    if (residual != nullptr) added[h] = *reinterpret_cast<const Pack<T, N>*>(residual + i);
  }
  float sum = 0;  // of squares, or of values where the mean is taken off
  const auto add = [&](int i, Pack<T, N>& v, const Pack<T, N>& r) {
    if (residual != nullptr) {
#pragma unroll
      for (int e = 0; e < N; ++e) v.at[e] = residual_sum<T>(to_float(r.at[e]) + to_float(v.at[e]));
      *reinterpret_cast<Pack<T, N>*>(residual + i) = v;
    }
#pragma unroll
    for (int e = 0; e < N; ++e) sum += kMean ? to_float(v.at[e]) : to_float(v.at[e]) * to_float(v.at[e]);
  };
  // Calls f(i, pack) for every pack of this thread, the residual added.
  const auto each = [&](const auto& f) {
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      if (first + h * step < width) f(first + h * step, held[h]);
    }
    for (int i = first + kHeld * step; i < width; i += step) f(i, *reinterpret_cast<const Pack<T, N>*>(summed + i));
  };
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    if (first + h * step < width) add(first + h * step, held[h], added[h]);
  }
  for (int i = first + kHeld * step; i < width; i += step) {
    Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(x + i), r = {};
    if (residual != nullptr) r = *reinterpret_cast<const Pack<T, N>*>(residual + i);
    add(i, v, r);
  }
  const float n = static_cast<float>(width);
  sum = block_sum(sum, work);
  float mean = 0;
  if (kMean) {
    mean = sum / n;
    float squares = 0;
    each([&](int, const Pack<T, N>& v) {
#pragma unroll
      for (int e = 0; e < N; ++e) squares += (to_float(v.at[e]) - mean) * (to_float(v.at[e]) - mean);
    });
    sum = block_sum(squares, work + kThreads / kWarpSize);
  }
  const float scale = 1.0f / sqrtf(sum / n + p.eps);
  each([&](int i, const Pack<T, N>& v) {
    constexpr int kFour = N < 4 ? N : 4;
    Pack<T, N> y;
#pragma unroll
    for (int e = 0; e < N; e += kFour) {
      const auto weight = *reinterpret_cast<const Pack<float, kFour>*>(p.weight + i + e);
#pragma unroll
      for (int w = 0; w < kFour; ++w) {
        const float f = (to_float(v.at[e + w]) - mean) * scale;
        if (kMean) {
          y.at[e + w] = from_float<T>(f * weight.at[w] + (p.bias != nullptr ? p.bias[i + e + w] : 0.0f));
        } else {
          y.at[e + w] = from_float<T>(rounded<T>(f) * weight.at[w]);
        }
      }
    }
    *reinterpret_cast<Pack<T, N>*>(out + i) = y;
  });
}

template <bool kMean>
cudaError_t norm(const NormParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    const bool packed = p.width % kPack<T> == 0 && aligned16(p.x, p.x_stride, sizeof(T)) &&
                        aligned16(p.out, p.out_stride, sizeof(T)) &&
                        aligned16(p.residual, p.residual_stride, sizeof(T)) && aligned16(p.weight, 0, sizeof(float));
    const size_t shared = 2 * kThreads / kWarpSize * sizeof(float);
    const dim3 grid(static_cast<unsigned>(p.rows));
    return packed ? launch("norm", norm_kernel<T, kPack<T>, kMean>, grid, kThreads, shared, stream, p, Start::kEarly)
                  : launch("norm", norm_kernel<T, 1, kMean>, grid, kThreads, shared, stream, p, Start::kEarly);
  });
}

}  // namespace

cudaError_t rms_norm(const NormParams& p, cudaStream_t stream) { return norm<false>(p, stream); }
cudaError_t layer_norm(const NormParams& p, cudaStream_t stream) { return norm<true>(p, stream); }

}  // namespace sluice::kernels
