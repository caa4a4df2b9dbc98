// SPDX-License-Identifier: Apache-2.0
// What the stand-ins for the runtime, cuBLASLt and NCCL share: work put on a stream, and what device memory is.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace sluice::emulation {

// Runs `work` when the stream comes to it, on the executor's thread; recorded instead while the stream is captured.
// Until `ready` says so the stream waits and others go on.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work, std::function<bool()> ready = {});

// Of a block on the device.
size_t most_shared_bytes();
// A kernel of one parameter struct. Refused where a device would: too many threads or blocks, too much shared memory.
cudaError_t launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, std::function<void()> body,
                   const char* name);

// Whether kernels and products run. With SLUICE_EMULATION_KERNELS=none only copies do, and a step is the host's part of
// it.
bool computes();

// Kernels that were launched so far, recorded ones and those of libraries included.
uint64_t launches();
void count_launch();

struct Allocation {
  const unsigned char* begin = nullptr;
  size_t bytes = 0;
  bool device = true;  // else pinned host memory
};
// The allocation whose bytes or guards hold `address`, or null.
const Allocation* find_allocation(const void* address);

// Whether a call that waits or allocates is made while a stream of this process is captured.
bool capturing();
// Waits for all streams.
void drain();

// Most microseconds that the executor lets queued work lie with nobody waiting for it; 2000 at start.
void set_laziness(int64_t microseconds);

// Whether kernels take the products of kernels/warpgroup.h, where the device has them; not at start.
bool warpgroup_products();
void set_warpgroup_products(bool has);

}  // namespace sluice::emulation
