// SPDX-License-Identifier: Apache-2.0
// What every kernel speaks: raw pointers, strides in elements, and these names. No room of src/ is known here.
//
// A launcher validates nothing but what its own grid depends on: shapes are checked once, by the caller. It returns
// cudaErrorInvalidValue for a combination it has no kernel for, else what the launch returned. Nothing here allocates,
// waits, or reads device memory from the host, so every launcher can be captured into a graph.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace sluice::kernels {

enum class Type : int32_t { kF32, kBF16, kF16 };  // of activations, weights and the cache; sums are f32 throughout
enum class Function : int32_t { kNone, kSilu, kGeluErf, kGeluTanh, kRelu };

inline size_t type_bytes(Type type) { return type == Type::kF32 ? 4 : 2; }

}  // namespace sluice::kernels
