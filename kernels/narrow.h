// SPDX-License-Identifier: Apache-2.0
// Products with weights of 8 or 4 bits, whole numbers or e4m3. Few rows are multiplied as the weights are read; for
// many, the matrix is widened first and goes the way of all others.
#pragma once

#include "types.h"

namespace sluice::kernels {

enum class Bits : int32_t { kEight, kFour, kEightGroups, kFloat8 };

// A matrix [n, k] of numbers.
//   kEight: i8, w = number * scale[row].
//   kFour: two numbers to a byte, the even column low; w = (number - zero) * scale, of each `group` columns of a row.
//   kEightGroups: u8, as kFour.
//   kFloat8: e4m3, w = number * scale of each `group` columns of a row. Converted by an instruction on sm_89 and later
//   and by shifts before.
struct NarrowMatrix {
  const void* numbers;   // rows `stride` bytes apart, 16-byte aligned; k is padded to whole 16 bytes with any numbers
  const float* scales;   // kEight: [n]; kFloat8: [n, groups], groups = (k + group - 1) / group
  const void* groups;    // kFour, kEightGroups: f16 [n, groups, 2] of scale and zero
  const int32_t* order;  // [k]: the element of x that column j multiplies; null: j
  int64_t n, k, stride, group;
  Bits bits;
};

// out[t][n] = sum_k x[t][k] * w[n][k], plus bias, then residual. A row's result is the same bits whatever rows go with
// it.
struct NarrowParams {
  NarrowMatrix w;
  void* out;             // out_type [rows, n]
  const void* x;         // type [rows, k]
  const float* bias;     // f32 [n], of groups [groups, n], or null
  const void* residual;  // type [rows, n] or null; may be `out` itself when out_type == type
  int64_t rows, out_stride, x_stride, residual_stride;
  // Of groups, as GemvParams has them; null: all rows times `w`, whose shape and bits all share.
  const NarrowMatrix* matrices;  // on the device, [groups]
  const int32_t* offsets;        // [groups + 1]
  int64_t groups;
  Type type, out_type;  // out_type: type or kF32
};
cudaError_t narrow_gemv(const NarrowParams& p, cudaStream_t stream);

// out[n][k] = w[n][k], rounded to type.
struct WidenParams {
  NarrowMatrix w;
  void* out;  // type [n, k], rows `out_stride` elements apart
  int64_t out_stride;
  Type type;
};
cudaError_t widen(const WidenParams& p, cudaStream_t stream);

}  // namespace sluice::kernels
