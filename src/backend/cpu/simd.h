// SPDX-License-Identifier: Apache-2.0
// The inner loops, one source for every instruction set, chosen at run time. Raw pointers; no threads, no allocation.
// Each output has one fixed order of summation, which depends on the instruction set and on nothing else.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/dtype.h"

namespace sluice::simd {

// Caps dispatch to AVX2 for the process. Call before any other function here.
void cap_to_avx2();
std::string target_name();  // "AVX3", "AVX2", ...

// A packed panel: 32 output features, input-major. For each input k 32 weights lie together: bf16 with feature i at
// place 2i and feature 16 + i at place 2i + 1 (two f32 vectors come from one load by shift and mask), others in order.
inline constexpr int64_t kPanel = 32;
int tile_rows();  // most rows of one tile: what fits the registers
struct PanelTile {
  const void* panel;  // weights from the first input on
  DType dtype;        // kBF16, kF16 or kF32
  int64_t inputs;     // how many
  const float* x;     // [inputs][rows]
  int rows;           // 1 .. tile_rows()
  float* out;         // [rows][32], rows out_stride apart
  int64_t out_stride;
  bool accumulate;  // continue the sums in out; else start at zero
};
// out[r][n] (+)= sum over k, in order of k, of x[k][r] * w[k][n]: one chain of fused multiply-adds per output.
void panel_tile(const PanelTile& tile);

// out = (x + maybe residual) normalised; residual [n] is updated when not null. RMS: x / rms * weight.
void rms_norm(float* out, const float* x, float* residual, const float* weight, int64_t n, float eps);
void layer_norm(float* out, const float* x, float* residual, const float* weight, const float* bias, int64_t n,
                float eps);
void add(float* inout, const float* other, int64_t n);
// out = silu(gate) * up.
void silu_gate(float* out, const float* gate, const float* up, int64_t n);
void silu(float* inout, int64_t n);
// Half-split rotation of one head: (a, b) -> (a cos - b sin, b cos + a sin), a the first half, b the second.
void rotate(float* head, const float* cos, const float* sin, int64_t half);
// n values between f32 and bf16, f16 or f32.
void narrow(void* out, const float* in, DType dtype, int64_t n);
void widen(float* out, const void* in, DType dtype, int64_t n);

// One cache block seen by `rows` query rows with running softmax state each.
struct AttentionBlock {
  const float* keys;        // [head_dim][block]: transposed, f32
  const float* values;      // [block][head_dim], f32
  int64_t head_dim, block;  // block: a multiple of 16
  const float* query;       // [head_dim], already scaled
  int64_t first, last;      // keys of the block that count: first <= j < last
  const float* bias;        // [block] added to the scores, or null
  float* output;            // [head_dim] running weighted sum
  float* maximum;           // running
  float* sum;               // running
  float* scores;            // scratch [block]
};
void attend(const AttentionBlock& block);
void scale(float* inout, float factor, int64_t n);

// Sum of all 64-bit words of `bytes` (a multiple of 64): reads memory and nothing else.
uint64_t read_all(const void* data, int64_t bytes);

}  // namespace sluice::simd
