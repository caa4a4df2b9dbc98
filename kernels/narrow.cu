// SPDX-License-Identifier: Apache-2.0
#include "narrow.h"

#include <cuda_fp8.h>

#include <type_traits>

#include "device.h"
#include "launch.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kMostRows = 8;  // of x for one pass over the weights

template <Bits kBits>
constexpr int kNumbers = kBits == Bits::kFour ? 32 : 16;  // of 16 bytes

// What 16 bytes hold.
template <Bits kBits>
struct Numbers {
  float at[kNumbers<kBits>];
};
template <Bits kBits>
__device__ __forceinline__ Numbers<kBits> numbers_of(const uint4& bytes) {
  const uint32_t words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
  Numbers<kBits> out;
#pragma unroll
  for (int e = 0; e < kNumbers<kBits>; ++e) {
    if (kBits == Bits::kFour) {
      out.at[e] = static_cast<float>(words[e / 8] >> (4 * (e % 8)) & 15u);
    } else if (kBits == Bits::kEight) {
      out.at[e] = static_cast<float>(static_cast<int8_t>(words[e / 4] >> (8 * (e % 4)) & 0xffu));
    } else if (kBits == Bits::kEightGroups) {
      out.at[e] = static_cast<float>(words[e / 4] >> (8 * (e % 4)) & 0xffu);
    } else if (e % 2 == 0) {
      const __half2_raw pair = __nv_cvt_fp8x2_to_halfraw2(
          static_cast<__nv_fp8x2_storage_t>(words[e / 4] >> (8 * (e % 4)) & 0xffffu), __NV_E4M3);
      const float2 two = __half22float2(pair);
      out.at[e] = two.x;
      out.at[e + 1] = two.y;
    }
  }
  return out;
}

// Scale and zero of the group that column k is in; of kEight 1 and 0.
struct Group {
  float scale, zero;
};
template <Bits kBits>
__device__ __forceinline__ Group group_of(const NarrowMatrix& w, int64_t row, int64_t k) {
  if (kBits == Bits::kEight) return {1.0f, 0.0f};
  const int64_t at = row * ((w.k + w.group - 1) / w.group) + k / w.group;
  if (kBits == Bits::kFloat8) return {w.scales[at], 0.0f};
  const f16* pair = static_cast<const f16*>(w.groups) + 2 * at;
  return {to_float(pair[0]), to_float(pair[1])};
}

// Grid: (n / 8, rows / kRows, groups), a warp per row of weights. Job: dot products of one row of weights with kRows
// rows of x, and again in strides of the grid where a group has more; 16 bytes of weights per lane at a time, so that a
// lane's numbers belong to one group of columns. The order of a row's sum depends on k alone. Precondition: group is a
// multiple of what 16 bytes hold; rows of numbers are 16-byte aligned and padded. Bytes moved: n * k (half of it for 4
// bits) and the scales per kRows rows, once; x comes from L2.
template <class T, Bits kBits, int kRows, bool kPacked>
__global__ void __launch_bounds__(kThreads) narrow_kernel(const NarrowParams p) {
  constexpr int N = kNumbers<kBits>;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t n = int64_t{blockIdx.x} * kWarps + warp;
  if (n >= p.w.n) return;
  const NarrowMatrix w = p.matrices != nullptr ? p.matrices[blockIdx.z] : p.w;
  const int64_t begin = p.matrices != nullptr ? p.offsets[blockIdx.z] : 0;
  const int64_t end = p.matrices != nullptr ? p.offsets[blockIdx.z + 1] : p.rows;
  const auto* numbers = static_cast<const unsigned char*>(w.numbers) + n * w.stride;
  for (int64_t first_t = begin + int64_t{blockIdx.y} * kRows; first_t < end; first_t += int64_t{gridDim.y} * kRows) {
    float sums[kRows] = {};
    for (int64_t k = int64_t{lane} * N; k < w.k; k += kWarpSize * N) {
      const uint4 bytes = *reinterpret_cast<const uint4*>(numbers + k * 16 / N);
      const int count = w.k - k < N ? static_cast<int>(w.k - k) : N;
      const Group group = group_of<kBits>(w, n, k);
      const Numbers<kBits> number = numbers_of<kBits>(bytes);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (first_t + r >= end) break;
        const T* row = static_cast<const T*>(p.x) + (first_t + r) * p.x_stride;
        const T* x = row + k;
        float part = 0;
        if (kPacked) {
          constexpr int P = kPack<T>;
#pragma unroll
          for (int i = 0; i < N / P; ++i) {
            const Pack<T, P> v = reinterpret_cast<const Pack<T, P>*>(x)[i];
#pragma unroll
            for (int e = 0; e < P; ++e) part += to_float(v.at[e]) * (number.at[i * P + e] - group.zero);
          }
        } else {
#pragma unroll
          for (int e = 0; e < N; ++e) {
            if (e < count)
              part += to_float(w.order != nullptr ? row[w.order[k + e]] : x[e]) * (number.at[e] - group.zero);
          }
        }
        sums[r] += part * group.scale;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t t = first_t + r;
      float sum = warp_sum(sums[r]);
      if (lane != 0 || t >= end) continue;
      if (kBits == Bits::kEight) sum *= w.scales[n];
      if (p.bias != nullptr) sum += p.bias[blockIdx.z * w.n + n];
      if (p.residual != nullptr) sum += to_float(static_cast<const T*>(p.residual)[t * p.residual_stride + n]);
      if (p.out_type == Type::kF32) {
        static_cast<float*>(p.out)[t * p.out_stride + n] = sum;
      } else {
        static_cast<T*>(p.out)[t * p.out_stride + n] = from_float<T>(sum);
      }
    }
  }
}

// Grid: (n / 8), a warp per row. Job: rows of numbers as elements. Precondition: as above. Bytes moved: those of the
// numbers and scales, and n * k * sizeof(T) written.
template <class T, Bits kBits>
__global__ void __launch_bounds__(kThreads) widen_kernel(const WidenParams p) {
  constexpr int N = kNumbers<kBits>;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t n = int64_t{blockIdx.x} * kWarps + warp;
  if (n >= p.w.n) return;
  const auto* numbers = static_cast<const unsigned char*>(p.w.numbers) + n * p.w.stride;
  T* out = static_cast<T*>(p.out) + n * p.out_stride;
  for (int64_t k = int64_t{lane} * N; k < p.w.k; k += kWarpSize * N) {
    const uint4 bytes = *reinterpret_cast<const uint4*>(numbers + k * 16 / N);
    const Group group = kBits == Bits::kEight ? Group{p.w.scales[n], 0.0f} : group_of<kBits>(p.w, n, k);
    const Numbers<kBits> number = numbers_of<kBits>(bytes);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      if (k + e < p.w.k)
        out[p.w.order != nullptr ? p.w.order[k + e] : k + e] = from_float<T>((number.at[e] - group.zero) * group.scale);
    }
  }
}

bool sound(const NarrowMatrix& w) {
  const int64_t whole = w.bits == Bits::kFour ? kNumbers<Bits::kFour> : kNumbers<Bits::kEight>;
  return aligned16(w.numbers, w.stride, 1) && (w.bits == Bits::kEight || (w.group > 0 && w.group % whole == 0));
}

// visit(std::integral_constant<Bits, bits>).
template <class Visit>
cudaError_t with_bits(Bits bits, const Visit& visit) {
  switch (bits) {
    case Bits::kEight:
      return visit(std::integral_constant<Bits, Bits::kEight>());
    case Bits::kFour:
      return visit(std::integral_constant<Bits, Bits::kFour>());
    case Bits::kEightGroups:
      return visit(std::integral_constant<Bits, Bits::kEightGroups>());
    default:
      return visit(std::integral_constant<Bits, Bits::kFloat8>());
  }
}

template <class T, Bits kBits, bool kPacked>
cudaError_t start(const NarrowParams& p, cudaStream_t stream) {
  const unsigned columns = blocks_for(p.w.n, kWarps);
  const int64_t groups = p.matrices != nullptr ? p.groups : 1;
  if (p.rows <= groups)
    return launch("narrow_gemv", narrow_kernel<T, kBits, 1, kPacked>,
                  dim3(columns, blocks_of_y(p.rows, groups), static_cast<unsigned>(groups)), kThreads, 0, stream, p);
  return launch("narrow_gemv", narrow_kernel<T, kBits, kMostRows, kPacked>,
                dim3(columns, blocks_of_y(p.rows, kMostRows * groups), static_cast<unsigned>(groups)), kThreads, 0,
                stream, p);
}

template <class T, Bits kBits>
cudaError_t choose(const NarrowParams& p, cudaStream_t stream) {
  const bool packed = p.w.order == nullptr && p.w.k % kNumbers<kBits> == 0 && aligned16(p.x, p.x_stride, sizeof(T));
  return packed ? start<T, kBits, true>(p, stream) : start<T, kBits, false>(p, stream);
}

}  // namespace

cudaError_t narrow_gemv(const NarrowParams& p, cudaStream_t stream) {
  if (!sound(p.w) || (p.out_type != p.type && p.out_type != Type::kF32)) return cudaErrorInvalidValue;
  if (p.matrices != nullptr && (p.groups == 0 || p.rows == 0)) return cudaSuccess;
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    return with_bits(p.w.bits, [&](auto bits) { return choose<T, decltype(bits)::value>(p, stream); });
  });
}

cudaError_t widen(const WidenParams& p, cudaStream_t stream) {
  if (!sound(p.w)) return cudaErrorInvalidValue;
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    const dim3 grid(blocks_for(p.w.n, kWarps));
    return with_bits(p.w.bits, [&](auto bits) {
      return launch("widen", widen_kernel<T, decltype(bits)::value>, grid, kThreads, 0, stream, p);
    });
  });
}

}  // namespace sluice::kernels
