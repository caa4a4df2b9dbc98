// SPDX-License-Identifier: Apache-2.0
// Operations that a backend may lack, where families ask computes() first, so that a call is our bug; and what a
// backend does where it has nothing better.
#include "backend/backend.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

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
    case Feature::kLengthRotation:
      return "rotary positions that depend on the length of a sequence";
    case Feature::kRoundedAlibi:
      return "ALiBi in two roundings";
    case Feature::kEncoder:
      return "attention of encoders";
  }
  fatal("unknown feature");
}

bool Backend::computes(Feature) const { return false; }
void Backend::scale(const Tensor&, float) { lacks(*this, "scale"); }
void Backend::head_norm(const Tensor&, const Tensor&, float) { lacks(*this, "head_norm"); }
void Backend::soft_cap(const Tensor&, float) { lacks(*this, "soft_cap"); }
void Backend::rotations(const Tensor&, const Tensor&, const Tensor&, const LengthRotation&) {
  lacks(*this, "rotations");
}
std::unique_ptr<WeightGroup> Backend::group(std::vector<std::unique_ptr<Weight>> members) {
  return std::make_unique<WeightGroup>(std::move(members));
}
void Backend::route(const Routing&, const Tensor&, const RouterRule&) { lacks(*this, "route"); }
void Backend::grouped_gemm(const Tensor&, const Tensor&, const WeightGroup&, const Tensor&) {
  lacks(*this, "grouped_gemm");
}
void Backend::combine(const Tensor&, const Tensor&, const Routing&) { lacks(*this, "combine"); }
void Backend::add_gated(const Tensor&, const Tensor&, const Tensor&) { lacks(*this, "add_gated"); }

Buffer Backend::allocate_staging(size_t bytes) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t rounded = (bytes + kHuge - 1) / kHuge * kHuge;
  void* data = std::aligned_alloc(kHuge, rounded > 0 ? rounded : kHuge);
  if (data == nullptr) throw std::bad_alloc();
  ::madvise(data, rounded, MADV_HUGEPAGE);  // an optimisation only: fewer page faults
  return Buffer(data, bytes, [](void* p, size_t) { std::free(p); });
}

void Backend::fused_linear(const Tensor& out, const Tensor& x, const Tensor& norm, float eps, const Weight& weight,
                           const Epilogue& epilogue, const Activation* gate, const Tensor& h, const Tensor& product) {
  if (norm) rms_norm(h, x, {}, norm, eps);
  linear(gate != nullptr ? product : out, norm ? h : x, weight, epilogue);
  if (gate != nullptr) gated_activation(out, product, *gate);
}

}  // namespace sluice
