// SPDX-License-Identifier: Apache-2.0
// What tests of kernels ask of the emulation, for a real device: it has orders of its own.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice::emulation {

inline void set_seed(uint64_t) {}

}  // namespace sluice::emulation
