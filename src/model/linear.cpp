// SPDX-License-Identifier: Apache-2.0
#include "model/linear.h"

#include <numeric>
#include <vector>

namespace sluice {
namespace {
Epilogue with_bias(const Buffer& bias) {
  Epilogue out;
  if (bias.bytes() > 0) out.bias = bias.view(DType::kF32, {static_cast<int64_t>(bias.bytes() / sizeof(float))});
  return out;
}

struct LogitsMemory {
  Tensor whole;     // [n, vocab]
  Tensor local;     // [n, local vocab]; the same memory as `whole` with one rank
  Tensor gathered;  // [tp, n, local vocab]; empty with one rank
};
LogitsMemory take_logits(const Groups& groups, Arena& arena, int64_t rows, int64_t vocab, int64_t local) {
  LogitsMemory out;
  out.whole = arena.take(DType::kF32, {rows, vocab});
  out.local = groups.tp_size() == 1 ? out.whole : arena.take(DType::kF32, {rows, local});
  if (groups.tp_size() > 1) out.gathered = arena.take(DType::kF32, {groups.tp_size() * rows, local});
  return out;
}
}  // namespace

void ColumnLinear::operator()(Backend& backend, const Tensor& out, const Tensor& x) const {
  backend.linear(out, x, *weight, with_bias(bias));
}

void ColumnLinear::fused(Backend& backend, const Tensor& out, const Tensor& x, const Norm* norm, const Activation* gate,
                         const Tensor& h, const Tensor& product) const {
  check(norm == nullptr || norm->kind == NormKind::kRms, "only RMS norms go into a product");
  const Tensor weights = norm != nullptr ? norm->weight.view(DType::kF32, {x.dim(1)}) : Tensor{};
  backend.fused_linear(out, x, weights, norm != nullptr ? norm->eps : 0.0f, *weight, with_bias(bias), gate, h, product);
}

void RowLinear::operator()(Backend& backend, const Groups& groups, const Tensor& out, const Tensor& x,
                           const Tensor& sum) const {
  Epilogue epilogue = groups.tp_rank() == 0 ? with_bias(bias) : Epilogue{};
  epilogue.residual = sum;
  backend.linear(out, x, *weight, epilogue);
}

void reduce(const Groups& groups, const Tensor& x) {
  if (groups.tp_size() > 1) groups.tp->all_reduce(x);
}

void VocabEmbedding::operator()(Backend& backend, const Groups& groups, const Tensor& out, const Tensor& ids) const {
  backend.embed(out, table.view(dtype, {local, width}), ids, first);
  reduce(groups, out);
}

void VocabLinear::allocate(Backend& backend, const Groups& groups, int64_t max_rows) {
  if (groups.tp_size() == 1) return;
  std::vector<int32_t> rows(static_cast<size_t>(max_rows));
  std::iota(rows.begin(), rows.end(), 0);
  all_rows = backend.allocate(rows.size() * sizeof(int32_t));
  backend.copy_in(all_rows.view(DType::kI32, {max_rows}), rows.data());
}

void VocabLinear::measure(const Groups& groups, Arena& arena, int64_t rows) const {
  take_logits(groups, arena, rows, vocab, weight->rows());
}

Tensor VocabLinear::operator()(Backend& backend, const Groups& groups, Arena& arena, const Tensor& x) const {
  const int64_t n = x.dim(0), local = weight->rows();
  const LogitsMemory memory = take_logits(groups, arena, n, vocab, local);
  backend.linear(memory.local, x, *weight, with_bias(bias));
  if (groups.tp_size() == 1) return memory.whole;
  groups.tp->all_gather(memory.gathered, memory.local);
  const Tensor rows = all_rows.view(DType::kI32, {n});
  for (int r = 0; r < groups.tp_size(); ++r) {
    const int64_t begin = std::min(vocab, r * local), count = std::min(local, vocab - begin);
    if (count > 0)
      backend.gather_rows(memory.whole.columns(begin, count), memory.gathered.rows(r * n, n).columns(0, count), rows);
  }
  return memory.whole;
}

}  // namespace sluice
