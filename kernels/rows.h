// SPDX-License-Identifier: Apache-2.0
// Kernels over rows of activations: one row in, one row out. All matrices are row-major with a row stride in elements.
#pragma once

#include "types.h"

namespace sluice::kernels {

// out[t] = table[ids[t] - first_id] where that row exists, else 0.
struct EmbedParams {
  void* out;           // type [rows, width]
  const void* table;   // table_type [vocab, width]
  const int32_t* ids;  // [rows]
  int64_t rows, width, vocab, first_id;
  int64_t out_stride, table_stride;
  Type type, table_type;
};
cudaError_t embed(const EmbedParams& p, cudaStream_t stream);

// With `residual`: residual += x (rounded to type), then out = norm(residual). Without: out = norm(x).
// RMS: out = round(x * rsqrt(mean(x^2) + eps)) * weight. Layer: out = (x - mean) * rsqrt(var + eps) * weight + bias.
struct NormParams {
  void* out;            // type [rows, width]; may be x itself
  const void* x;        // type [rows, width]
  void* residual;       // type [rows, width] or null
  const float* weight;  // [width]
  const float* bias;    // [width] or null; layer_norm only
  int64_t rows, width;
  int64_t out_stride, x_stride, residual_stride;
  float eps;
  Type type;
};
cudaError_t rms_norm(const NormParams& p, cudaStream_t stream);
cudaError_t layer_norm(const NormParams& p, cudaStream_t stream);

// out = function(gate) * up, where gate is in[:, 0:width] and up is in[:, width:2*width].
struct GatedParams {
  void* out;       // type [rows, width]
  const void* in;  // type [rows, 2 * width]
  int64_t rows, width, out_stride, in_stride;
  Function function;
  Type type;
};
cudaError_t gated_activation(const GatedParams& p, cudaStream_t stream);

// out = function(s gate) * (s up) with s = factor / sqrt(mean(x[t]^2) + eps): the norm of the product's rows after the
// product, whose matrix has the norm's weights in its columns (scale_columns).
struct NormedGatedParams {
  void* out;       // type [rows, width]
  const void* in;  // type [rows, 2 * width]
  const void* x;   // type [rows, x_width]: what was multiplied
  int64_t rows, width, x_width, out_stride, in_stride, x_stride;
  float eps, factor;
  Function function;
  Type type;
};
cudaError_t normed_gated_activation(const NormedGatedParams& p, cudaStream_t stream);

// inout[t] *= factors, column by column.
struct ScaleColumnsParams {
  void* inout;           // type [rows, width]
  const float* factors;  // [width]
  int64_t rows, width, stride;
  Type type;
};
cudaError_t scale_columns(const ScaleColumnsParams& p, cudaStream_t stream);

// RMS norm of each head of `width` columns by itself, in place, rounded as rms_norm's.
struct HeadNormParams {
  void* inout;          // type [rows, heads * width]
  const float* weight;  // [width]
  int64_t rows, heads, width, stride;
  float eps;
  Type type;
};
cudaError_t head_norm(const HeadNormParams& p, cudaStream_t stream);

// inout = cap * tanh(inout / cap) where cap > 0, else inout * factor.
struct ScaleParams {
  void* inout;  // type [rows, width]
  int64_t rows, width, stride;
  float factor, cap;
  Type type;
};
cudaError_t scale(const ScaleParams& p, cudaStream_t stream);

// inout = function(inout) in place.
struct ActivationParams {
  void* inout;  // type [rows, width]
  int64_t rows, width, stride;
  Function function;
  Type type;
};
cudaError_t activation(const ActivationParams& p, cudaStream_t stream);

// inout += other (a matrix), and inout += bias (broadcast over rows); either may be null.
struct AddParams {
  void* inout;        // type [rows, width]
  const void* other;  // type [rows, width] or null
  const float* bias;  // [width] or null
  int64_t rows, width, stride, other_stride;
  Type type;
};
cudaError_t add(const AddParams& p, cudaStream_t stream);

// out[t] = x[rows[t]], whole rows of `row_bytes`; strides in bytes.
struct GatherParams {
  void* out;
  const void* x;
  const int32_t* rows;  // [n]
  int64_t n, row_bytes, out_stride_bytes, x_stride_bytes;
};
cudaError_t gather_rows(const GatherParams& p, cudaStream_t stream);

// out = in with another type, rows of `width`. For loading weights, and for logits in f32.
struct ConvertParams {
  void* out;
  const void* in;
  int64_t rows, width, out_stride, in_stride;
  Type out_type, in_type;
};
cudaError_t convert(const ConvertParams& p, cudaStream_t stream);

// Reads `bytes` (a multiple of 16) once; *out receives a word that depends on all of them. For measuring bandwidth.
cudaError_t read_probe(uint32_t* out, const void* data, size_t bytes, int blocks, cudaStream_t stream);

}  // namespace sluice::kernels
