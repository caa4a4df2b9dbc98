// SPDX-License-Identifier: Apache-2.0
// The one place where a kernel is started. Every kernel takes one parameter struct by value and keeps what it shares in
// dynamic shared memory, as one struct or array of its own.
#pragma once

#include <cuda_runtime.h>

#include "types.h"
#ifdef SLUICE_CUDA_EMULATED
#include "runtime.h"
#endif

namespace sluice::kernels {

// kEarly: the kernel may begin while the one before it in the stream ends (programmatic dependent launch, from compute
// capability 9.0). It calls after_previous() (tensor_core.h) before it touches anything but weights and other memory
// that no kernel of a step writes.
enum class Start { kAfterPrevious, kEarly };

#ifndef SLUICE_CUDA_EMULATED
inline bool can_start_early() {
  static const bool can = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  }();
  return can;
}
#endif

struct DeviceLimits {
  unsigned multiprocessors;
  size_t shared, shared_of_block;  // bytes of shared memory of a multiprocessor, and of a block that asks for it
};
inline const DeviceLimits& device_limits() {
  static const DeviceLimits limits = [] {
    int device = 0, n = 1, shared = 48 * 1024, of_block = 48 * 1024;
    if (cudaGetDevice(&device) == cudaSuccess) {
      cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device);
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
      cudaDeviceGetAttribute(&of_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    }
    return DeviceLimits{static_cast<unsigned>(n), static_cast<size_t>(shared), static_cast<size_t>(of_block)};
  }();
  return limits;
}

// Blocks with `shared` bytes each that a device holds at once, up to `most` per multiprocessor.
inline unsigned blocks_at_once(size_t shared, unsigned most) {
  const auto fit = static_cast<unsigned>(device_limits().shared / (shared + 1024));  // 1 KiB of each is the system's
  return device_limits().multiprocessors * (fit < 1 ? 1 : fit < most ? fit : most);
}

// `shared` bytes beyond 48 KiB are asked for by name, as the device wants it. An empty grid starts nothing.
template <class Params>
cudaError_t launch(const char* name, void (*kernel)(Params), dim3 grid, int threads, size_t shared, cudaStream_t stream,
                   const Params& params, Start start = Start::kAfterPrevious) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
#ifdef SLUICE_CUDA_EMULATED
  static_cast<void>(start);
  return emulation::launch(
      grid, dim3(static_cast<unsigned>(threads)), shared, stream, [=] { kernel(params); }, name);
#else
  static_cast<void>(name);
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = start == Start::kEarly && can_start_early() ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
#endif
}

// Shared memory of the block as a T (or the first of many).
template <class T>
__device__ __forceinline__ T* shared_as() {
#ifdef SLUICE_CUDA_EMULATED
  return reinterpret_cast<T*>(emulation::shared_bytes());
#else
  extern __shared__ __align__(128) unsigned char sluice_shared[];
  return reinterpret_cast<T*>(sluice_shared);
#endif
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}
// The same along y, where a device takes few blocks and kernels go on in strides of the grid.
inline unsigned blocks_of_y(int64_t items, int64_t per_block) {
  constexpr unsigned kMost = 65535;
  const unsigned blocks = blocks_for(items, per_block);
  return blocks < kMost ? blocks : kMost;
}

// A grid of one thread per pack of n columns: x runs over packs of a row, y over rows (in strides of the grid).
constexpr int kRowThreads = 256;
inline dim3 over_rows(int64_t rows, int64_t packs) {
  return dim3(blocks_for(packs, kRowThreads), blocks_of_y(rows, 1));
}
// By packs of n columns where all that is touched allows them, else by single columns.
template <class Params>
cudaError_t launch_rows(const char* name, bool packed, int n, void (*packs)(Params), void (*singles)(Params),
                        int64_t rows, int64_t width, cudaStream_t stream, const Params& p) {
  return launch(name, packed ? packs : singles, over_rows(rows, packed ? width / n : width), kRowThreads, 0, stream, p);
}
__device__ __forceinline__ int64_t row_column(int n) { return (int64_t{blockIdx.x} * kRowThreads + threadIdx.x) * n; }

}  // namespace sluice::kernels
