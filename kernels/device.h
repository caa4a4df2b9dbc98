// SPDX-License-Identifier: Apache-2.0
// What kernels share on the device: elements and their conversions, 16-byte vectors, sums of a warp and of a block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "types.h"

namespace sluice::kernels {

using bf16 = __nv_bfloat16;
using f16 = __half;

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_float(f16 v) { return __half2float(v); }

// Rounds to nearest even.
template <class T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ __forceinline__ f16 from_float<f16>(float v) {
  return __float2half_rn(v);
}
// A sum of the residual stream: where f16 would be infinite, what transformers clamps T5's hidden states to.
template <class T>
__device__ __forceinline__ T residual_sum(float v) {
  return from_float<T>(v);
}
template <>
__device__ __forceinline__ f16 residual_sum<f16>(float v) {
  constexpr float kFirstInfinite = 65520.0f, kClamped = 64504.0f;  // rounded, 64512; NaN stays
  return from_float<f16>(v >= kFirstInfinite ? kClamped : v <= -kFirstInfinite ? -kClamped : v);
}
template <class T>
__device__ __forceinline__ float rounded(float v) {
  return to_float(from_float<T>(v));
}

// N elements moved as one load or store; N * sizeof(T) is 2, 4, 8 or 16 bytes.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T at[N];
};
template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ float activated(Function function, float x) {
  switch (function) {
    case Function::kSilu:
      return __fdividef(x, 1.0f + __expf(-x));  // to 2^-21; a division costs more than the bytes of its element
    case Function::kGeluErf:
      return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case Function::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    case Function::kRelu:
      return x > 0 ? x : 0.0f;
    default:
      return x;
  }
}

// The same bits in every lane.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) v += __shfl_xor_sync(kAllLanes, v, step);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, step));
  return v;
}

// A pair turned by an angle: the same bits in every kernel, with each product rounded before the sum.
template <class T>
__device__ __forceinline__ void turn(T& low, T& high, float cosine, float sine) {
  const float a = to_float(low), b = to_float(high);
  low = from_float<T>(__fsub_rn(__fmul_rn(a, cosine), __fmul_rn(b, sine)));
  high = from_float<T>(__fadd_rn(__fmul_rn(b, cosine), __fmul_rn(a, sine)));
}

// Whether a score comes before another: the larger, or the lower id.
template <class V>
__device__ __forceinline__ bool before(V a, int a_id, V b, int b_id) {
  return a > b || (a == b && a_id < b_id);
}
// The first of a warp's scores, in every lane.
template <class V>
__device__ __forceinline__ void warp_first(V& score, int& id) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const V other = __shfl_xor_sync(kAllLanes, score, step);
    const int other_id = __shfl_xor_sync(kAllLanes, id, step);
    if (before(other, other_id, score, id)) {
      score = other;
      id = other_id;
    }
  }
}

// The same bits in every thread of a block of whole warps; `work` is shared memory for one float per warp, free again
// after the next barrier of the caller.
__device__ __forceinline__ float block_sum(float v, float* work) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  v = warp_sum(v);
  if (lane == 0) work[warp] = v;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < warps; ++w) sum += work[w];
  return sum;
}

// Whether rows of `stride` elements from `pointer` may be moved 16 bytes at a time.
inline bool aligned16(const void* pointer, int64_t stride, size_t element) {
  return pointer == nullptr ||
         (reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && static_cast<size_t>(stride) * element % 16 == 0);
}

// Calls f with a value of the element type.
template <class F>
cudaError_t with_type(Type type, const F& f) {
  switch (type) {
    case Type::kF32:
      return f(float());
    case Type::kBF16:
      return f(bf16());
    case Type::kF16:
      return f(f16());
  }
  return cudaErrorInvalidValue;
}

}  // namespace sluice::kernels
