// SPDX-License-Identifier: Apache-2.0
// What becomes of an error of the CUDA runtime or of cuBLASLt: a device that failed cannot be trusted again, so the
// process ends, naming call, place, rank, host and device.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <string>

#include "base/error.h"

namespace sluice::cuda {

// "NVIDIA H200, GPU-..., device 0", for messages of this process. On any thread.
void set_device_name(std::string name);

[[noreturn]] void fail(cudaError_t error, const char* call, CodePlace where);
[[noreturn]] void fail(cublasStatus_t status, const char* call, CodePlace where);

inline void check_call(cudaError_t error, const char* call, CodePlace where) {
  if (error != cudaSuccess) [[unlikely]]
    fail(error, call, where);
}
inline void check_call(cublasStatus_t status, const char* call, CodePlace where) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    fail(status, call, where);
}

}  // namespace sluice::cuda

#define SLUICE_CUDA(call) ::sluice::cuda::check_call(call, #call, ::sluice::CodePlace::here())
