// SPDX-License-Identifier: Apache-2.0
// What ops ask of their tensors.
#pragma once

#include "tensor/tensor.h"

namespace sluice::cuda {

inline bool is_float(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }
inline bool is_matrix(const Tensor& t, int64_t rows, int64_t cols) {
  return t.rank == 2 && is_float(t.dtype) && t.dim(0) == rows && t.dim(1) == cols;
}
inline bool is_vector(const Tensor& t, DType dtype, int64_t n) {
  return t.rank == 1 && t.dtype == dtype && t.dim(0) == n && t.contiguous();
}

}  // namespace sluice::cuda
