// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts: which rows go where is known to the device alone, so that a step can be recorded.
#include "kernels/experts.h"
#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/shapes.h"

namespace sluice::cuda {
namespace {

// The members' places on the device: pointers, or kernels::NarrowMatrix where they have few bits.
class CudaWeightGroup final : public WeightGroup {
 public:
  using WeightGroup::WeightGroup;
  const CudaWeight& weight(int64_t i) const { return static_cast<const CudaWeight&>(member(i)); }
  Buffer places;
};

}  // namespace

std::unique_ptr<WeightGroup> CudaBackend::group(std::vector<std::unique_ptr<Weight>> members) {
  auto out = std::make_unique<CudaWeightGroup>(std::move(members));
  if (out->size() == 0) return out;
  const CudaWeight& first = out->weight(0);
  std::vector<const void*> pointers;
  std::vector<kernels::NarrowMatrix> matrices;
  for (int64_t i = 0; i < out->size(); ++i) {
    const CudaWeight& w = out->weight(i);
    check(w.rows() == first.rows() && w.cols() == first.cols() && w.stride == first.stride && w.dtype == first.dtype &&
              w.bits == first.bits && w.group == first.group,
          "experts of one layer have one shape and scheme");
    if (w.narrow()) {
      matrices.push_back(w.matrix());
    } else {
      pointers.push_back(w.data.data());
    }
  }
  const void* host = first.narrow() ? static_cast<const void*>(matrices.data()) : pointers.data();
  const size_t bytes = first.narrow() ? matrices.size() * sizeof matrices[0] : pointers.size() * sizeof pointers[0];
  out->places = allocate(bytes);
  ring_.upload(out->places.data(), bytes, host, bytes, 1);
  return out;
}

void CudaBackend::route(const Routing& out, const Tensor& logits, const RouterRule& rule) {
  const int64_t n = logits.dim(0), experts = logits.dim(1), k = rule.top_k, local = out.offsets.dim(0) - 1;
  check(is_matrix(logits, n, experts) && logits.dtype == DType::kF32 && k > 0 && k <= experts && local >= 0 &&
            out.first_expert >= 0 && out.first_expert + local <= experts &&
            is_vector(out.offsets, DType::kI32, local + 1) && is_vector(out.rows, DType::kI32, n * k) &&
            out.places.dim(0) == n && out.places.dim(1) == k && out.places.contiguous() &&
            is_matrix(out.weights, n, k) && out.weights.dtype == DType::kF32,
        "route: shapes do not fit");
  kernels::RouteParams p{};
  p.offsets = out.offsets.as<int32_t>();
  p.rows_of = out.rows.as<int32_t>();
  p.places = out.places.as<int32_t>();
  p.weights = out.weights.as<float>();
  p.chosen = static_cast<int32_t*>(route_work_.reserve(static_cast<size_t>(n * k) * sizeof(int32_t), stream_));
  p.logits = logits.as<float>();
  p.rows = n;
  p.logits_stride = logits.row_stride;
  p.weights_stride = out.weights.row_stride;
  p.experts = static_cast<int32_t>(experts);
  p.top_k = static_cast<int32_t>(k);
  p.first_expert = static_cast<int32_t>(out.first_expert);
  p.local = static_cast<int32_t>(local);
  p.renormalise = rule.renormalise;
  SLUICE_CUDA(kernels::route(p, stream_));
}

void CudaBackend::grouped_gemm(const Tensor& out, const Tensor& x, const WeightGroup& experts, const Tensor& offsets,
                               const Tensor& bias) {
  check(is_vector(offsets, DType::kI32, experts.size() + 1), "grouped_gemm: an offset for every expert");
  if (experts.size() == 0) return;
  const auto& group = static_cast<const CudaWeightGroup&>(experts);
  const CudaWeight& first = group.weight(0);
  check(is_matrix(x, out.dim(0), first.cols()) && is_matrix(out, out.dim(0), first.rows()) && out.dtype == x.dtype &&
            first.takes(x.dtype) &&
            (!bias || (is_matrix(bias, group.size(), first.rows()) && bias.dtype == DType::kF32 && bias.contiguous())),
        "grouped_gemm: shapes do not fit");
  products_.run_group(out, x, first, group.places.data(), offsets.as<int32_t>(), group.size(),
                      bias ? bias.as<float>() : nullptr);
}

void CudaBackend::clamped_swiglu(const Tensor& out, const Tensor& pairs) {
  const int64_t n = out.dim(0), width = out.dim(1);
  check(is_matrix(out, n, width) && is_matrix(pairs, n, 2 * width) && out.dtype == pairs.dtype,
        "clamped_swiglu: shapes do not fit");
  SLUICE_CUDA(kernels::clamped_swiglu(
      {out.data, pairs.data, n, width, out.row_stride, pairs.row_stride, type_of(out.dtype)}, stream_));
}

void CudaBackend::combine(const Tensor& out, const Tensor& x, const Routing& routing) {
  const int64_t n = out.dim(0), width = out.dim(1), k = routing.places.dim(1);
  check(is_matrix(out, n, width) && is_matrix(x, n * k, width) && out.dtype == x.dtype && routing.places.dim(0) == n &&
            routing.places.contiguous() && is_matrix(routing.weights, n, k),
        "combine: shapes do not fit");
  kernels::CombineParams p{};
  p.out = out.data;
  p.x = x.data;
  p.places = routing.places.as<int32_t>();
  p.weights = routing.weights.as<float>();
  p.rows = n;
  p.width = width;
  p.out_stride = out.row_stride;
  p.x_stride = x.row_stride;
  p.weights_stride = routing.weights.row_stride;
  p.top_k = static_cast<int32_t>(k);
  p.type = type_of(out.dtype);
  SLUICE_CUDA(kernels::combine(p, stream_));
}

void CudaBackend::add_gated(const Tensor& out, const Tensor& x, const Tensor& gate) {
  const int64_t n = out.dim(0), width = out.dim(1);
  check(is_matrix(out, n, width) && is_matrix(x, n, width) && is_matrix(gate, n, 1) && x.dtype == out.dtype &&
            gate.dtype == out.dtype,
        "add_gated: shapes do not fit");
  SLUICE_CUDA(kernels::add_gated(
      {out.data, x.data, gate.data, n, width, out.row_stride, x.row_stride, gate.row_stride, type_of(out.dtype)},
      stream_));
}

}  // namespace sluice::cuda
