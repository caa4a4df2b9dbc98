// SPDX-License-Identifier: Apache-2.0
// The limits that bench compares with: how fast this backend reads memory and multiplies packed matrices.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/model.h"

namespace sluice {

inline constexpr size_t kProbeBytes = size_t{2} << 30;  // beyond every cache

// Products of 512 rows with three of the model's own shapes (attention output, MLP up, MLP down) in its dtype.
class ProductProbe {
 public:
  ProductProbe(Backend& backend, const ModelInfo& model);
  double gflops();                                   // of all three together, best of three runs
  const std::string& name() const { return name_; }  // "bf16", "f16", "f32", "int8" or "int4"

 private:
  static constexpr int64_t kRows = 512;
  struct Product {
    std::unique_ptr<Weight> weight;
    Buffer in, out;
  };
  Backend& backend_;
  std::string name_;
  DType activation_;
  std::vector<Product> products_;
};

}  // namespace sluice
