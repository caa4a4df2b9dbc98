// SPDX-License-Identifier: Apache-2.0
// The way to the CUDA backend, which lives in the run-time module sluice_cuda.so: the executable itself links no CUDA
// and starts where there is none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace sluice {

struct CudaDevice {
  std::string uuid;  // "GPU-..." as nvidia-smi -L prints it
  std::string name;  // "NVIDIA H200"
  size_t free_bytes = 0, total_bytes = 0;
  int major = 0, minor = 0;  // compute capability
};

struct CudaOptions {
  int device = 0;              // among the visible ones
  double utilization = 0.9;    // share of the device's memory that this process may use
  bool deterministic = false;  // a row's result does not depend on what else is in the step
};

// Sequences of a step at most: attention has a number of each in a block's shared memory.
constexpr int64_t kCudaMostSeqs = 8192;

class CudaModule {
 public:
  virtual ~CudaModule() = default;
  // Visible devices. Throws Error saying why there are none: no driver, too old a driver, no device.
  virtual std::vector<CudaDevice> devices() const = 0;
  // Binds the calling thread to the device. Throws Error.
  virtual std::unique_ptr<Backend> make(const CudaOptions& options) const = 0;
  // The stream on which the backend's ops are queued, a cudaStream_t, for a communicator that queues its own there.
  virtual void* stream(const Backend& backend) const = 0;
};

// The module beside the executable, or where SLUICE_CUDA_MODULE says; loaded once. Throws Error: no module, or what
// keeps it from being loaded.
const CudaModule& cuda_module();

// Changes whenever the interface between executable and module does.
constexpr uint32_t kCudaModuleVersion = 1;
using CudaModuleEntry =
    const CudaModule* (*)(uint32_t version);  // the symbol sluice_cuda_module; null: another version

}  // namespace sluice
