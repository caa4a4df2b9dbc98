// SPDX-License-Identifier: Apache-2.0
// Found before the toolkit's header of this name when kernels are compiled for the emulation: the toolkit's own host
// declarations, and the device side as functions of the running fiber.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.h"
#include "watch.h"

#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__
#undef __forceinline__
#define __forceinline__ inline
#undef __restrict__
#define __restrict__ __restrict

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

inline void __syncthreads() { sluice::emulation::block_barrier(); }
inline int __syncthreads_or(int predicate) { return sluice::emulation::block_barrier_or(predicate); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { sluice::emulation::warp_exchange(mask, nullptr, 0); }
inline void __threadfence() { sluice::emulation::watch_fence(); }
inline void __threadfence_block() {}
inline void __threadfence_system() { sluice::emulation::watch_fence(); }

namespace sluice::emulation {
template <class T>
T shuffle(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= 16);
  T out;
  std::memcpy(&out, warp_exchange(mask, &value, sizeof value).in[from], sizeof out);
  return out;
}
// The lane `from` where it lies in this lane's segment of `width` lanes, else this lane.
inline int in_segment(int from, int width) {
  const int own = lane(), base = own / width * width;
  return from >= base && from < base + width ? from : own;
}
}  // namespace sluice::emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  return sluice::emulation::shuffle(mask, value, sluice::emulation::lane() / width * width + from % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  return sluice::emulation::shuffle(mask, value,
                                    sluice::emulation::in_segment(sluice::emulation::lane() ^ with, width));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return sluice::emulation::shuffle(
      mask, value, sluice::emulation::in_segment(sluice::emulation::lane() + static_cast<int>(by), width));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return sluice::emulation::shuffle(
      mask, value, sluice::emulation::in_segment(sluice::emulation::lane() - static_cast<int>(by), width));
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto& slots = sluice::emulation::warp_exchange(mask, &predicate, sizeof predicate);
  unsigned out = 0;
  for (int l = 0; l < 32; ++l) {
    int value;
    std::memcpy(&value, slots.in[l], sizeof value);
    if ((mask >> l & 1) != 0 && value != 0) out |= 1u << l;
  }
  return out;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline unsigned __activemask() { return 0xffffffffu; }

// Fibers of one block never run at once, and blocks neither: plain reads and writes are atomic here.
template <class T, class Change>
T sluice_atomic(T* address, const Change& change) {
  sluice::emulation::watch_atomic(address, sizeof(T));
  const sluice::emulation::Unwatched quiet;
  const T old = *address;
  *address = change(old);
  return old;
}
template <class T, class V>
T atomicAdd(T* address, V value) {
  return sluice_atomic(address, [&](T old) { return static_cast<T>(old + static_cast<T>(value)); });
}
template <class T, class V>
T atomicMax(T* address, V value) {
  return sluice_atomic(address, [&](T old) { return std::max(old, static_cast<T>(value)); });
}
template <class T, class V>
T atomicMin(T* address, V value) {
  return sluice_atomic(address, [&](T old) { return std::min(old, static_cast<T>(value)); });
}
template <class T, class V>
T atomicOr(T* address, V value) {
  return sluice_atomic(address, [&](T old) { return static_cast<T>(old | static_cast<T>(value)); });
}
template <class T, class V>
T atomicExch(T* address, V value) {
  return sluice_atomic(address, [&](T) { return static_cast<T>(value); });
}
template <class T, class C, class V>
T atomicCAS(T* address, C expected, V value) {
  return sluice_atomic(address, [&](T old) { return old == static_cast<T>(expected) ? static_cast<T>(value) : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return sluice_atomic(address, [&](unsigned old) { return old >= limit ? 0u : old + 1; });
}

template <class T>
T __ldg(const T* address) {
  return *address;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
template <class To, class From>
To sluice_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline int __float_as_int(float x) { return sluice_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return sluice_bits<unsigned>(x); }
inline float __int_as_float(int x) { return sluice_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return sluice_bits<float>(x); }
inline long long __double_as_longlong(double x) { return sluice_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return sluice_bits<double>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
