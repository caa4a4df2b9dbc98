// SPDX-License-Identifier: Apache-2.0
// What the CPU backend's operations ask of their arguments.
#pragma once

#include "tensor/tensor.h"

namespace sluice {

inline bool is_matrix(const Tensor& t, DType dtype, int64_t rows, int64_t cols) {
  return t.rank == 2 && t.dtype == dtype && t.dim(0) == rows && t.dim(1) == cols;
}
inline bool is_vector(const Tensor& t, DType dtype, int64_t n) {
  return t.rank == 1 && t.dtype == dtype && t.dim(0) == n && t.contiguous();
}
inline float* at(const Tensor& t, int64_t row) { return static_cast<float*>(t.row(row)); }

}  // namespace sluice
