// SPDX-License-Identifier: Apache-2.0
// What a backend does where it has nothing better.
#include "backend/backend.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "base/error.h"

namespace sluice {

size_t PackedPart::bytes() const {
  size_t out = shape.empty() ? 0 : dtype_bytes(dtype);
  for (const int64_t n : shape) out *= static_cast<size_t>(n);
  return out;
}

PackedForm Backend::form(const Weight&) const { fatal("this backend keeps no packed matrices in files"); }
std::unique_ptr<Weight> Backend::restore(PackedForm) { fatal("this backend keeps no packed matrices in files"); }

std::unique_ptr<WeightGroup> Backend::group(std::vector<std::unique_ptr<Weight>> members) {
  return std::make_unique<WeightGroup>(std::move(members));
}

Buffer Backend::allocate_staging(size_t bytes) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t rounded = (bytes + kHuge - 1) / kHuge * kHuge;
  void* data = std::aligned_alloc(kHuge, rounded > 0 ? rounded : kHuge);
  if (data == nullptr) throw std::bad_alloc();
  ::madvise(data, rounded, MADV_HUGEPAGE);  // an optimisation only: fewer page faults
  return Buffer(data, bytes, [](void* p, size_t) { std::free(p); });
}

void Backend::attend(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                     const Tensor& positions, const BatchView& batch, int group, const AttentionShape& shape,
                     const CacheLayer& cache) {
  BatchView rotated = batch;
  rotated.positions = positions;
  rope_and_cache(q, k, v, table, rotated, group, shape, cache);
  attention(out, q, batch, group, shape, cache);
}

void Backend::fused_linear(const Tensor& out, const Tensor& x, const Tensor& norm, float eps, const Weight& weight,
                           const Epilogue& epilogue, const Activation* gate, const Tensor& h, const Tensor& product) {
  if (norm) rms_norm(h, x, {}, norm, eps);
  linear(gate != nullptr ? product : out, norm ? h : x, weight, epilogue);
  if (gate != nullptr) gated_activation(out, product, *gate);
}

}  // namespace sluice
