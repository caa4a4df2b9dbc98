// SPDX-License-Identifier: Apache-2.0
#include "weights/spec.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace sluice {
namespace {
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Consecutive equal parts of `whole`, the last ones short or empty.
Range even(int64_t whole, int rank, int size) {
  const int64_t padded = ceil_div(whole, size);
  const int64_t begin = std::min(whole, rank * padded);
  return {begin, std::min(padded, whole - begin), padded};
}
}  // namespace

int64_t TensorSpec::elements() const {
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  return n;
}

std::vector<int64_t> TensorSpec::stored_shape() const {
  std::vector<int64_t> out = shape;
  if (stored.outputs > 0) out[0] = stored.outputs;
  if (stored.transposed) std::swap(out.at(0), out.at(1));
  if (stored.stack > 0) {
    if (!stored.transposed) out[0] /= stored.stack;
    out.insert(out.begin(), stored.stack);
  }
  return out;
}

Partition::Partition(const SplitSizes& sizes, int tp_rank, int tp_size)
    : d_ff(even(sizes.d_ff, tp_rank, tp_size)),
      vocab(even(sizes.vocab, tp_rank, tp_size)),
      head_dim(sizes.head_dim),
      tp_rank(tp_rank),
      tp_size(tp_size) {
  check(tp_rank >= 0 && tp_rank < tp_size, "tp rank out of range");
  check(sizes.n_kv_heads > 0 && sizes.n_heads % sizes.n_kv_heads == 0, "query heads are a multiple of KV heads");
  const int64_t group = sizes.n_heads / sizes.n_kv_heads;  // query heads that share a KV head
  if (tp_size <= sizes.n_kv_heads) {
    kv_heads = even(sizes.n_kv_heads, tp_rank, tp_size);
    heads = {kv_heads.begin * group, kv_heads.count * group, kv_heads.padded * group};
    return;
  }
  const int64_t copies = tp_size / sizes.n_kv_heads;  // ranks that hold the same KV head
  const int64_t kv = tp_rank / copies;
  if (kv >= sizes.n_kv_heads) {  // a rank left over: zeros only
    kv_heads = {sizes.n_kv_heads, 0, 1};
    heads = {sizes.n_heads, 0, ceil_div(group, copies)};
    return;
  }
  kv_heads = {kv, 1, 1};
  heads = even(group, static_cast<int>(tp_rank % copies), static_cast<int>(copies));
  heads.begin += kv * group;
}

Range Partition::of(Split split, int64_t whole) const {
  switch (split) {
    case Split::kWhole:
      return {0, whole, whole};
    case Split::kQueryHeads:
      return {heads.begin * head_dim, heads.count * head_dim, heads.padded * head_dim};
    case Split::kKvHeads:
      return {kv_heads.begin * head_dim, kv_heads.count * head_dim, kv_heads.padded * head_dim};
    case Split::kHeads:
      return heads;
    case Split::kFeedForward:
      return even(whole, tp_rank, tp_size);  // experts and dense layers may be of different widths
    case Split::kFeedForwardPairs: {
      const Range pairs = even(whole / 2, tp_rank, tp_size);
      return {2 * pairs.begin, 2 * pairs.count, 2 * pairs.padded};
    }
    case Split::kVocab:
      return vocab;
  }
  fatal("unknown split");
}

LayerRange stage_layers(int64_t n_layers, int stage, int stages) {
  if (stages > n_layers) {
    throw Error(
        fmt::format("--pp {} is more than the {} layers of the model; use at most {}", stages, n_layers, n_layers));
  }
  const int64_t base = n_layers / stages, extra = n_layers % stages;
  return {stage * base + std::min<int64_t>(stage, extra), base + (stage < extra ? 1 : 0)};
}

}  // namespace sluice
