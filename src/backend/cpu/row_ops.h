// SPDX-License-Identifier: Apache-2.0
// Kernels over one row of n elements, for the best vectors of the machine. A row is always summed in the same order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

namespace sluice {

struct RowOps {
  void (*widen)(float* out, const void* in, DType dtype, int64_t n);   // f32, bf16, f16 to f32
  void (*narrow)(void* out, DType dtype, const float* in, int64_t n);  // f32 to f32, bf16, f16; nearest even
  void (*add)(float* inout, const float* other, int64_t n);
  // out = sums * scales + bias + residual, in that order; all but sums may be null, out may be the residual.
  void (*finish)(float* out, const float* sums, const float* scales, const float* bias, const float* residual,
                 int64_t n);
  // `residual` may be null: residual += x, then the norm of the sum. `bias` may be null.
  void (*rms_norm)(float* out, const float* x, float* residual, const float* weight, int64_t n, float eps);
  void (*layer_norm)(float* out, const float* x, float* residual, const float* weight, const float* bias, int64_t n,
                     float eps);
  void (*activate)(float* inout, int64_t n, Activation activation);
  void (*gate)(float* out, const float* gate, const float* up, int64_t n, Activation activation);  // act(gate) * up
  // Half-split rotation of one head: (x[i], x[i + half]) by the angle whose cosine and sine are given.
  void (*rotate)(float* head, const float* cosine, const float* sine, int64_t half);
  void (*scale)(float* inout, int64_t n, float factor);
  void (*add_scaled)(float* inout, const float* x, int64_t n, float factor);  // inout += factor * x
  void (*soft_cap)(float* inout, int64_t n, float cap);                       // cap * tanh(inout / cap)
  uint64_t (*read)(const void* data, size_t bytes);  // sum of whole 256-byte groups: reads memory and nothing else
};

const RowOps& row_ops(int64_t vector_targets);

}  // namespace sluice
