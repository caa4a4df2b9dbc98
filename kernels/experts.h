// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts beside the products themselves (gemv.h, narrow.h): which expert a row goes to, and the sum of
// what its experts say. A place is a row at one of its experts; the places of an expert are adjacent.
#pragma once

#include "types.h"

namespace sluice::kernels {

constexpr int kMostChosen = 32;  // experts per row

// Each row goes to the top_k experts of its logits, ties to the lower id; their weights are the softmax over all
// experts, or over the chosen ones where renormalise. Experts [first_expert, first_expert + local) are held here.
struct RouteParams {
  int32_t* offsets;     // [local + 1]: places of local expert e are offsets[e] .. offsets[e + 1]
  int32_t* rows_of;     // [rows * top_k]: the row of a place, rows ascending; 0 where the place is not in use
  int32_t* places;      // [rows, top_k]: of a row, experts ascending; -1: held elsewhere
  float* weights;       // [rows, top_k]: of those, rows `weights_stride` apart
  int32_t* chosen;      // workspace [rows, top_k]
  const float* logits;  // [rows, experts]
  int64_t rows, logits_stride, weights_stride;
  int32_t experts, top_k, first_expert, local;  // top_k at most kMostChosen
  bool renormalise;
};
cudaError_t route(const RouteParams& p, cudaStream_t stream);

// out[t] = sum of weights[t, j] * x[places[t, j]] over j in ascending order, places of -1 left out.
struct CombineParams {
  void* out;              // type [rows, width]
  const void* x;          // type [places, width]
  const int32_t* places;  // [rows, top_k]
  const float* weights;   // [rows, top_k]
  int64_t rows, width, out_stride, x_stride, weights_stride;
  int32_t top_k;
  Type type;
};
cudaError_t combine(const CombineParams& p, cudaStream_t stream);

// out[t] += sigmoid(gate[t]) * x[t].
struct AddGatedParams {
  void* out;         // type [rows, width]
  const void* x;     // type [rows, width]
  const void* gate;  // type [rows, 1]
  int64_t rows, width, out_stride, x_stride, gate_stride;
  Type type;
};
cudaError_t add_gated(const AddGatedParams& p, cudaStream_t stream);

// out = (clamp(up, -7, 7) + 1) * gate * sigmoid(1.702 * gate) with gate at most 7, where gates are the even columns of
// in and ups the odd ones.
struct ClampedSwigluParams {
  void* out;       // type [rows, width]
  const void* in;  // type [rows, 2 * width]
  int64_t rows, width, out_stride, in_stride;
  Type type;
};
cudaError_t clamped_swiglu(const ClampedSwigluParams& p, cudaStream_t stream);

}  // namespace sluice::kernels
