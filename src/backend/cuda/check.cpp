// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/check.h"

#include <fmt/format.h>

#include <mutex>
#include <string_view>

namespace sluice::cuda {
namespace {

std::mutex mutex;  // ranks of a test are threads of one process
std::string device = "no device chosen";

std::string device_name() {
  const std::lock_guard lock(mutex);
  return device;
}

// The function's name alone: arguments are addresses.
std::string_view name_of(const char* call) {
  const std::string_view text(call);
  return text.substr(0, text.find('('));
}

}  // namespace

void set_device_name(std::string name) {
  const std::lock_guard lock(mutex);
  device = std::move(name);
}

void fail(cudaError_t error, const char* call, CodePlace where) {
  fatal(fmt::format("CUDA: {} failed: {} ({}) on {}", name_of(call), cudaGetErrorString(error), cudaGetErrorName(error),
                    device_name()),
        where);
}

void fail(cublasStatus_t status, const char* call, CodePlace where) {
  fatal(fmt::format("cuBLASLt: {} failed: {} on {}", name_of(call), cublasLtGetStatusString(status), device_name()),
        where);
}

}  // namespace sluice::cuda
