// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_table.h"

namespace sluice {

void TensorTable::embedding(std::string prefix) {
  prefix_ = std::move(prefix), place_ = Place::kEmbedding, layer_ = -1;
}

void TensorTable::layer(int64_t index, std::string prefix) {
  prefix_ = std::move(prefix), place_ = Place::kLayer, layer_ = index;
}

void TensorTable::head(std::string prefix) { prefix_ = std::move(prefix), place_ = Place::kHead, layer_ = -1; }

void TensorTable::norm(const std::string& name, int64_t width, bool bias) {
  tensor(name + ".weight", {width}, Split::kWhole, Split::kWhole, Init::kOne);
  if (bias) tensor(name + ".bias", {width});
}

void TensorTable::linear(const std::string& name, Dim out, Dim in, bool bias, const Stored& stored) {
  const auto hold = [&](const char* end) {
    out_.back().stored = stored;
    if (!stored.name.empty()) out_.back().stored.name = prefix_ + stored.name + end;
  };
  tensor(name + ".weight", {out.size, in.size}, out.split, in.split);
  hold(".weight");
  if (!bias) return;
  tensor(name + ".bias", {out.size}, out.split);
  hold(".bias");
  out_.back().stored.transposed = false;
}

void TensorTable::linear_by_head(const std::array<const char*, 3>& qkv, const std::string& name, int64_t n_kv_heads,
                                 int64_t head_dim, int64_t in, bool bias, int64_t per_group) {
  const int64_t stride = (per_group + 2) * head_dim;
  for (int64_t b = 0; b < 3; ++b) {
    const int64_t heads = b == 0 ? per_group : 1, first = b == 0 ? 0 : per_group + b - 1;  // in a group
    const Dim out{n_kv_heads * heads * head_dim, b == 0 ? Split::kQueryHeads : Split::kKvHeads};
    Stored stored;
    stored.name = name, stored.first = first * head_dim, stored.outputs = n_kv_heads * stride;
    stored.run = heads * head_dim, stored.stride = stride;
    linear(qkv[static_cast<size_t>(b)], out, {in}, bias, stored);
  }
}

void TensorTable::tensor(const std::string& name, std::vector<int64_t> shape, Split rows, Split cols, Init init,
                         const Stored& stored) {
  out_.push_back({prefix_ + name, std::move(shape), rows, cols, place_, layer_, init, stored});
}

}  // namespace sluice
