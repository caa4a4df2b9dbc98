// SPDX-License-Identifier: Apache-2.0
// Loads whole layers by the names of a family's table. Destinations stay where they are until run() returns.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "model/family.h"
#include "model/linear.h"
#include "model/norm.h"
#include "weights/load.h"

namespace sluice {

class ModuleLoader {
 public:
  ModuleLoader(LoadContext& context, const std::vector<TensorSpec>& table, const Partition& partition);
  ModuleLoader(const ModuleLoader&) = delete;  // what is to be loaded refers to it
  ModuleLoader& operator=(const ModuleLoader&) = delete;

  // Before every name that follows.
  void within(std::string prefix) { prefix_ = std::move(prefix); }

  // Names go without ".weight" and ".bias"; a bias is loaded where the table has one. Several names stack their rows.
  void norm(const std::string& name, Norm& to, NormKind kind, float eps, float offset = 0);  // added to the weights
  void column(std::initializer_list<const char*> names, ColumnLinear& to);
  void row(const char* name, RowLinear& to);
  // One of `experts`, of which a decode step reads `used`.
  void expert(std::initializer_list<const char*> names, std::unique_ptr<Weight>& to, int64_t used, int64_t experts);
  // Whole names after the prefix; the vectors one below the other. None: `to` stays empty.
  void vector(const std::vector<std::string>& names, Buffer& to);
  // Whole names, without the prefix.
  void embedding(const std::string& name, VocabEmbedding& to);
  void head(const std::string& name, VocabLinear& to);
  void table(const std::string& name, Buffer& to);  // [rows, columns] in the weights' dtype
  void scale(const Buffer& vector, float factor) { changes_.push_back({&vector, factor, 0}); }  // a loaded f32 vector

  // Where the backend gains by it: the norm's weights go into the product's columns and become ones.
  void fold(const Norm& norm, const ColumnLinear& product) { folds_.push_back({&norm, &product}); }

  WeightLoader& weights() { return loader_; }
  // Reads everything, then completes `info` with the bytes of this rank.
  void run(ModelInfo& info);

 private:
  std::vector<std::string> full(std::initializer_list<const char*> names, const char* end) const;
  void matrix(std::span<const std::string> names, std::unique_ptr<Weight>& to);

  LoadContext& context_;
  Partition partition_;
  std::vector<TensorSpec> table_;
  WeightLoader loader_;
  std::string prefix_;
  std::vector<std::unique_ptr<Weight>*> products_;
  struct Change {  // of an f32 vector
    const Buffer* vector;
    float factor, offset;
  };
  std::vector<Change> changes_;
  struct Fold {
    const Norm* norm;
    const ColumnLinear* product;
  };
  std::vector<Fold> folds_;
  struct Expert {
    std::unique_ptr<Weight>* weight;
    int64_t used, experts;
  };
  std::vector<Expert> experts_;
};

}  // namespace sluice
