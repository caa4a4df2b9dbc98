// SPDX-License-Identifier: Apache-2.0
// Matrix products for few rows: the weights are read once for up to 64 rows. A row's result is the same bits whatever
// rows go with it, for every number of rows, so that this is also the product of --deterministic.
#pragma once

#include "types.h"

namespace sluice::kernels {

// out[t][n] = finish(sum_k x[t][k] * weight[n][k]), where finish adds bias, then residual.
// gated (function != kNone and gated = true): weight holds gate rows then up rows, 2 * n of them, and
// out[t][n] = function(gate) * up, each rounded to type before, as the unfused ops do.
// norm_weight: x is RMS-normalised on the way in, as rms_norm without residual would (rows <= 8, small k: see
// gemv_can_norm).
struct GemvParams {
  void* out;                 // out_type [rows, n]
  const void* x;             // type [rows, k]
  const void* weight;        // type [n or 2 n, k], rows `weight_stride` apart
  const float* bias;         // f32 [n or 2 n], of groups [groups, n or 2 n], or null
  const void* residual;      // type [rows, n] or null; may be `out` itself when out_type == type
  const float* norm_weight;  // f32 [k] or null
  int64_t rows, n, k;
  int64_t out_stride, x_stride, weight_stride, residual_stride;
  float norm_eps;
  bool gated;
  // Of groups: matrix weights[g] multiplies rows offsets[g] .. offsets[g + 1] of x alone, and rows of no group are left
  // alone; `rows` is then their most. Without residual and norm_weight.
  const void* const* weights;  // on the device, [groups]; null: all rows times `weight`, whose alignment all share
  const int32_t* offsets;      // [groups + 1]
  int64_t groups;
  Function function;    // of the gate when gated; else applied to the sum after the bias, before the residual
  Type type, out_type;  // out_type: type or kF32 (logits)
};
cudaError_t gemv(const GemvParams& p, cudaStream_t stream);
bool gemv_can_norm(const GemvParams& p);  // whether norm_weight may be set for this shape

}  // namespace sluice::kernels
