// SPDX-License-Identifier: Apache-2.0
#include "model/module_loader.h"

#include <algorithm>

#include "base/error.h"

namespace sluice {
namespace {
const TensorSpec& spec_of(const std::vector<TensorSpec>& table, const std::string& name) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const TensorSpec& s) { return s.name == name; });
  check(found != table.end(), "a tensor is loaded that the family's table does not list");
  return *found;
}
}  // namespace

ModuleLoader::ModuleLoader(LoadContext& context, const std::vector<TensorSpec>& table, const Partition& partition)
    : context_(context),
      partition_(partition),
      table_(table),
      loader_(context.backend, context.checkpoint, table, partition, context.dtype, context.packed) {}

std::vector<std::string> ModuleLoader::full(std::initializer_list<const char*> names, const char* end) const {
  std::vector<std::string> out;
  for (const char* name : names) out.push_back(prefix_ + name + end);
  return out;
}

void ModuleLoader::matrix(std::span<const std::string> names, std::unique_ptr<Weight>& to) {
  loader_.matrix(names, to);
  products_.push_back(&to);
}

void ModuleLoader::norm(const std::string& name, Norm& to, NormKind kind, float eps, float offset) {
  if (offset != 0) changes_.push_back({&to.weight, 1, offset});
  to.kind = kind, to.eps = eps;
  loader_.vector(full({name.c_str()}, ".weight"), to.weight);
  const auto bias = full({name.c_str()}, ".bias");
  if (loader_.lists(bias.front())) loader_.vector(bias, to.bias);
}

void ModuleLoader::column(std::initializer_list<const char*> names, ColumnLinear& to) {
  matrix(full(names, ".weight"), to.weight);
  const auto bias = full(names, ".bias");
  if (loader_.lists(bias.front())) loader_.vector(bias, to.bias);
}

void ModuleLoader::row(const char* name, RowLinear& to) {
  matrix(full({name}, ".weight"), to.weight);
  const auto bias = full({name}, ".bias");
  if (context_.groups.tp_rank() == 0 && loader_.lists(bias.front())) loader_.vector(bias, to.bias);
}

void ModuleLoader::expert(std::initializer_list<const char*> names, std::unique_ptr<Weight>& to, int64_t used,
                          int64_t experts) {
  loader_.matrix(full(names, ".weight"), to);
  experts_.push_back({&to, used, experts});
}

void ModuleLoader::vector(const std::vector<std::string>& names, Buffer& to) {
  if (names.empty()) return;
  std::vector<std::string> whole;
  for (const std::string& name : names) whole.push_back(prefix_ + name);
  loader_.vector(whole, to);
}

void ModuleLoader::embedding(const std::string& name, VocabEmbedding& to) {
  loader_.table(name, to.table);
  to.dtype = context_.dtype;
  to.first = partition_.vocab.begin;
  to.local = partition_.vocab.padded;
  to.width = spec_of(table_, name).shape[1];
}

void ModuleLoader::head(const std::string& name, VocabLinear& to) {
  matrix({&name, 1}, to.weight);
  to.vocab = spec_of(table_, name).shape[0];
  const std::string bias = name.substr(0, name.rfind('.')) + ".bias";
  if (loader_.lists(bias)) loader_.vector({&bias, 1}, to.bias);
}

void ModuleLoader::table(const std::string& name, Buffer& to) { loader_.table(name, to); }

void ModuleLoader::run(ModelInfo& info) {
  loader_.run(context_.staging);
  for (const Change& change : changes_) {
    std::vector<float> values(change.vector->bytes() / sizeof(float));
    const Tensor device = change.vector->view(DType::kF32, {static_cast<int64_t>(values.size())});
    context_.backend.copy_out(values.data(), device);
    for (float& value : values) value = value * change.factor + change.offset;
    context_.backend.copy_in(device, values.data());
  }
  for (const Fold& fold : folds_) {
    const Tensor norm = fold.norm->weight.view(DType::kF32, {fold.product->weight->cols()});
    if (fold.product->bias.bytes() > 0 || !context_.backend.fold_norm(*fold.product->weight, norm)) continue;
    const std::vector<float> ones(static_cast<size_t>(norm.dim(0)), 1.0f);
    context_.backend.copy_in(norm, ones.data());
  }
  info.weight_bytes = loader_.weight_bytes();
  info.read_bytes = 0;
  for (const std::unique_ptr<Weight>* product : products_) info.read_bytes += (*product)->bytes();
  double used = 0;
  for (const Expert& e : experts_)
    used += static_cast<double>((*e.weight)->bytes()) * static_cast<double>(e.used) / static_cast<double>(e.experts);
  info.read_bytes += static_cast<size_t>(used);
}

}  // namespace sluice
