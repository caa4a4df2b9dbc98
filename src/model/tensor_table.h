// SPDX-License-Identifier: Apache-2.0
// Builds a family's table of tensors: one call per norm or linear layer instead of one row per tensor.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "weights/spec.h"

namespace sluice {

// How long one dimension of a linear layer is and what splits it.
struct Dim {
  int64_t size = 0;
  Split split = Split::kWhole;
};

class TensorTable {
 public:
  // Owner of what follows; `prefix` goes before every name.
  void embedding(std::string prefix);
  void layer(int64_t index, std::string prefix);
  void head(std::string prefix);

  void norm(const std::string& name, int64_t width, bool bias = false);  // NAME.weight of ones, NAME.bias
  // NAME.weight [out, in], NAME.bias [out]. `stored` holds for both; its name, where given, is without ".weight".
  void linear(const std::string& name, Dim out, Dim in, bool bias = false, const Stored& stored = {});
  // q, k and v, which the file holds as NAME with its rows in groups: those of `per_group` query heads, then one key
  // head, then one value head.
  void linear_by_head(const std::array<const char*, 3>& qkv, const std::string& name, int64_t n_kv_heads,
                      int64_t head_dim, int64_t in, bool bias, int64_t per_group = 1);
  void tensor(const std::string& name, std::vector<int64_t> shape, Split rows = Split::kWhole,
              Split cols = Split::kWhole, Init init = Init::kUniform, const Stored& stored = {});  // NAME as it is

  const std::string& prefix() const { return prefix_; }

  std::vector<TensorSpec> take() { return std::move(out_); }

 private:
  std::vector<TensorSpec> out_;
  std::string prefix_;
  Place place_ = Place::kEmbedding;
  int64_t layer_ = -1;
};

}  // namespace sluice
