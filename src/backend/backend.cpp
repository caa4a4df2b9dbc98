// SPDX-License-Identifier: Apache-2.0
// Operations that a backend may lack. Families ask computes() first, so that a call is our bug.
#include "backend/backend.h"

#include "base/error.h"

namespace sluice {
namespace {
[[noreturn]] void lacks(const Backend& backend, const char* op) {
  fatal(std::string("the ") + std::string(backend.name()) + " backend has no operation " + op);
}
}  // namespace

std::string_view feature_name(Feature feature) {
  switch (feature) {
    case Feature::kScale:
      return "scaled embeddings";
    case Feature::kHeadNorm:
      return "norms of single heads";
    case Feature::kSoftCap:
      return "soft caps";
    case Feature::kExperts:
      return "mixtures of experts";
  }
  fatal("unknown feature");
}

bool Backend::computes(Feature) const { return false; }
void Backend::scale(const Tensor&, float) { lacks(*this, "scale"); }
void Backend::head_norm(const Tensor&, const Tensor&, float) { lacks(*this, "head_norm"); }
void Backend::soft_cap(const Tensor&, float) { lacks(*this, "soft_cap"); }
std::unique_ptr<WeightGroup> Backend::group(std::vector<std::unique_ptr<Weight>> members) {
  return std::make_unique<WeightGroup>(std::move(members));
}
void Backend::route(const Routing&, const Tensor&, const RouterRule&) { lacks(*this, "route"); }
void Backend::grouped_gemm(const Tensor&, const Tensor&, const WeightGroup&, const Tensor&) {
  lacks(*this, "grouped_gemm");
}
void Backend::combine(const Tensor&, const Tensor&, const Routing&) { lacks(*this, "combine"); }
void Backend::add_gated(const Tensor&, const Tensor&, const Tensor&) { lacks(*this, "add_gated"); }

}  // namespace sluice
