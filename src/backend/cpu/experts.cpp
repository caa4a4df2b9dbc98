// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts: rows are sorted by expert, each expert used multiplies its rows once, and every row sums its
// experts in ascending order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/shapes.h"
#include "base/error.h"

namespace sluice {
namespace {
// The top_k of a row's softmax, ascending by expert: ids and weights.
void choose(const float* logits, int64_t experts, const RouterRule& rule, int32_t* ids, float* weights) {
  const int64_t k = rule.top_k;
  int64_t count = 0;  // the best so far, in descending order
  for (int64_t e = 0; e < experts; ++e) {
    if (count == k && !(logits[e] > logits[ids[k - 1]])) continue;
    int64_t j = count < k ? count++ : k - 1;
    for (; j > 0 && logits[e] > logits[ids[j - 1]]; --j) ids[j] = ids[j - 1];
    ids[j] = static_cast<int32_t>(e);
  }
  const float top = logits[ids[0]];
  float total = 0;
  if (rule.renormalise) {
    std::sort(ids, ids + k);
    for (int64_t j = 0; j < k; ++j) total += weights[j] = std::exp(logits[ids[j]] - top);
  } else {
    for (int64_t e = 0; e < experts; ++e) total += std::exp(logits[e] - top);
    std::sort(ids, ids + k);
    for (int64_t j = 0; j < k; ++j) weights[j] = std::exp(logits[ids[j]] - top);
  }
  for (int64_t j = 0; j < k; ++j) weights[j] /= total;
}
}  // namespace

void CpuBackend::route(const Routing& out, const Tensor& logits, const RouterRule& rule) {
  const int64_t n = logits.dim(0), experts = logits.dim(1), k = rule.top_k, local = out.offsets.dim(0) - 1;
  check(is_matrix(logits, DType::kF32, n, experts) && k > 0 && k <= experts && local >= 0 && out.first_expert >= 0 &&
            out.first_expert + local <= experts && is_vector(out.offsets, DType::kI32, local + 1) &&
            is_vector(out.rows, DType::kI32, n * k) && is_matrix(out.places, DType::kI32, n, k) &&
            is_matrix(out.weights, DType::kF32, n, k) && out.places.contiguous(),
        "route: shapes do not fit");
  rows(n, n * experts * k, [&](int64_t t) {
    choose(at(logits, t), experts, rule, static_cast<int32_t*>(out.places.row(t)), at(out.weights, t));
  });
  // places hold expert ids; they are counted, then dealt.
  int32_t* offsets = out.offsets.as<int32_t>();
  int32_t* rows_of = out.rows.as<int32_t>();
  int32_t* places = out.places.as<int32_t>();
  std::memset(offsets, 0, out.offsets.bytes());
  std::memset(rows_of, 0, out.rows.bytes());
  const auto local_id = [&](int32_t id) { return id - static_cast<int32_t>(out.first_expert); };
  for (int64_t i = 0; i < n * k; ++i) {
    const int32_t e = local_id(places[i]);
    if (e >= 0 && e < local) ++offsets[e + 1];
  }
  for (int64_t e = 0; e < local; ++e) offsets[e + 1] += offsets[e];
  for (int64_t i = 0; i < n * k; ++i) {
    const int32_t e = local_id(places[i]);
    if (e >= 0 && e < local) rows_of[offsets[e]] = static_cast<int32_t>(i / k);
    places[i] = e >= 0 && e < local ? offsets[e]++ : -1;
  }
  for (int64_t e = local; e > 0; --e) offsets[e] = offsets[e - 1];  // dealing moved each to the end of its expert
  if (local > 0) offsets[0] = 0;
}

void CpuBackend::grouped_gemm(const Tensor& out, const Tensor& x, const WeightGroup& experts, const Tensor& offsets,
                              const Tensor& bias) {
  check(is_vector(offsets, DType::kI32, experts.size() + 1), "grouped_gemm: an offset for every expert");
  for (int64_t e = 0; e < experts.size(); ++e) {
    check(is_matrix(x, DType::kF32, out.dim(0), experts.member(e).cols()) &&
              is_matrix(out, DType::kF32, out.dim(0), experts.member(e).rows()),
          "grouped_gemm: shapes do not fit");
  }
  products_.run_group(out, x, experts, offsets.as<int32_t>());
  if (!bias || experts.size() == 0) return;
  check(is_matrix(bias, DType::kF32, experts.size(), out.dim(1)), "grouped_gemm: a bias for every expert");
  const int32_t* ends = offsets.as<int32_t>() + 1;
  rows(ends[experts.size() - 1], out.elements(), [&](int64_t place) {
    const int64_t e = std::upper_bound(ends, ends + experts.size(), place) - ends;
    rows_.add(at(out, place), at(bias, e), out.dim(1));
  });
}

void CpuBackend::clamped_swiglu(const Tensor& out, const Tensor& pairs) {
  const int64_t n = out.dim(0), width = out.dim(1);
  check(is_matrix(out, DType::kF32, n, width) && is_matrix(pairs, DType::kF32, n, 2 * width),
        "clamped_swiglu: expected gates and ups in turns");
  rows(n, 16 * out.elements(), [&](int64_t t) {
    const float* in = at(pairs, t);
    float* to = at(out, t);
    for (int64_t i = 0; i < width; ++i) {
      const float gate = std::min(in[2 * i], 7.0f), up = std::clamp(in[2 * i + 1], -7.0f, 7.0f);
      to[i] = (up + 1.0f) * gate / (1.0f + std::exp(-1.702f * gate));
    }
  });
}

void CpuBackend::combine(const Tensor& out, const Tensor& x, const Routing& routing) {
  const int64_t n = out.dim(0), width = out.dim(1), k = routing.places.dim(1);
  check(is_matrix(out, DType::kF32, n, width) && is_matrix(x, DType::kF32, n * k, width) &&
            is_matrix(routing.places, DType::kI32, n, k) && is_matrix(routing.weights, DType::kF32, n, k),
        "combine: shapes do not fit");
  rows(n, n * k * width, [&](int64_t t) {
    std::memset(out.row(t), 0, static_cast<size_t>(width) * sizeof(float));
    const int32_t* places = static_cast<const int32_t*>(routing.places.row(t));
    for (int64_t j = 0; j < k; ++j) {
      if (places[j] >= 0) rows_.add_scaled(at(out, t), at(x, places[j]), width, at(routing.weights, t)[j]);
    }
  });
}

void CpuBackend::add_gated(const Tensor& out, const Tensor& x, const Tensor& gate) {
  const int64_t n = out.dim(0), width = out.dim(1);
  check(is_matrix(out, DType::kF32, n, width) && is_matrix(x, DType::kF32, n, width) &&
            is_matrix(gate, DType::kF32, n, 1),
        "add_gated: shapes do not fit");
  rows(n, n * width,
       [&](int64_t t) { rows_.add_scaled(at(out, t), at(x, t), width, 1.0f / (1.0f + std::exp(-*at(gate, t)))); });
}

}  // namespace sluice
