// SPDX-License-Identifier: Apache-2.0
// Matrix products by the way they are split over tensor-parallel ranks. Only these types and reduce() know of the
// split; they hold this rank's share.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/arena.h"
#include "model/norm.h"

namespace sluice {

// Output features are split: every rank computes its own columns of the result.
struct ColumnLinear {
  std::unique_ptr<Weight> weight;  // [local out, in]
  Buffer bias;                     // f32 [local out], or empty
  void operator()(Backend& backend, const Tensor& out, const Tensor& x) const;
  // The product of the normed x (`norm` null: of x), gated where `gate` is given: Backend::fused_linear. RMS norms
  // only.
  void fused(Backend& backend, const Tensor& out, const Tensor& x, const Norm* norm, const Activation* gate,
             const Tensor& h, const Tensor& product) const;
};

// Input features are split: every rank computes a partial sum, which reduce() completes. The bias takes part once, on
// tp rank 0.
struct RowLinear {
  std::unique_ptr<Weight> weight;  // [out, local in]
  Buffer bias;                     // f32 [out], or empty
  // `sum`, where given, is another partial sum [T, out] to add; it may be `out`.
  void operator()(Backend& backend, const Groups& groups, const Tensor& out, const Tensor& x,
                  const Tensor& sum = {}) const;
};

// Completes partial sums over the tp ranks.
void reduce(const Groups& groups, const Tensor& x);

// Token table, split over the vocabulary; rows past the end are zero.
struct VocabEmbedding {
  Buffer table;  // [local vocab, width] in `dtype`
  DType dtype = DType::kF32;
  int64_t first = 0, local = 0, width = 0;
  // out [T, width], complete on every tp rank.
  void operator()(Backend& backend, const Groups& groups, const Tensor& out, const Tensor& ids) const;
};

// Head, split over the vocabulary. Padding rows are dropped when the shares are put together.
struct VocabLinear {
  std::unique_ptr<Weight> weight;  // [local vocab, width]
  Buffer bias;                     // f32 [local vocab], or empty
  int64_t vocab = 0;               // of the whole model
  Buffer all_rows;                 // i32 [max rows]: 0, 1, 2, ...

  void allocate(Backend& backend, const Groups& groups, int64_t max_rows);
  // x [n, width] -> f32 [n, vocab] on every tp rank, in the arena.
  Tensor operator()(Backend& backend, const Groups& groups, Arena& arena, const Tensor& x) const;
  // Arena bytes of that call.
  void measure(const Groups& groups, Arena& arena, int64_t rows) const;
};

}  // namespace sluice
