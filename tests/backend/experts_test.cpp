// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts: routing, products of sorted rows, and their sum.
#include <algorithm>
#include <numeric>

#include "backend/arrays.h"

namespace sluice {
namespace {
using test::Matrix;

// Owned memory of a Routing over experts [first, first + local).
struct Routed {
  Routed(int64_t rows, int64_t k, int64_t first, int64_t local)
      : offsets(static_cast<size_t>(local) + 1, -7),
        place_rows(static_cast<size_t>(rows * k), -7),
        places(static_cast<size_t>(rows * k), -7),
        weights(static_cast<size_t>(rows * k), NAN) {
    view.first_expert = first;
    view.offsets = test::ints(offsets);
    view.rows = test::ints(place_rows);
    view.places = Tensor(places.data(), DType::kI32, {rows, k});
    view.weights = Tensor(weights.data(), DType::kF32, {rows, k});
  }
  std::vector<int32_t> offsets, place_rows, places;
  std::vector<float> weights;
  Routing view;
};

struct Choice {
  std::vector<int64_t> experts;  // ascending
  std::vector<double> weights;
};
Choice expected(const Matrix& logits, int64_t row, const RouterRule& rule) {
  const int64_t n = logits.cols();
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return logits.at(row, a) > logits.at(row, b); });
  Choice out;
  out.experts.assign(order.begin(), order.begin() + rule.top_k);
  std::sort(out.experts.begin(), out.experts.end());
  double all = 0, chosen = 0;
  for (int64_t e = 0; e < n; ++e) all += std::exp(static_cast<double>(logits.at(row, e)));
  for (const int64_t e : out.experts) chosen += std::exp(static_cast<double>(logits.at(row, e)));
  for (const int64_t e : out.experts)
    out.weights.push_back(std::exp(static_cast<double>(logits.at(row, e))) / (rule.renormalise ? chosen : all));
  return out;
}

TEST_CASE("route sorts rows by expert, with the weights of the softmax over all or over the chosen") {
  const auto backend = test::make_backend();
  std::mt19937 random(1);
  for (const bool renormalise : {false, true}) {
    for (const auto& [experts, k] : {std::pair<int64_t, int64_t>{8, 2}, {5, 1}, {60, 4}, {3, 3}, {128, 8}}) {
      const int64_t rows = 37;
      Matrix logits(rows, experts, 2);
      logits.fill(random, 2.0f);
      for (int64_t e = 0; e < experts; ++e) logits.at(4, e) = 1.0f;  // ties go to the lower ids
      const RouterRule rule{k, renormalise};
      // All experts here, the first part, the last part, and none of them.
      for (const auto& [first, local] :
           {std::pair<int64_t, int64_t>{0, experts}, {0, experts / 2}, {experts / 2, experts - experts / 2}, {1, 0}}) {
        Routed out(rows, k, first, local);
        backend->route(out.view, logits.tensor(), rule);
        CHECK(out.offsets.front() == 0);
        std::vector<int> used(static_cast<size_t>(rows * k), 0);
        for (int64_t t = 0; t < rows; ++t) {
          const Choice want = expected(logits, t, rule);
          for (int64_t j = 0; j < k; ++j) {
            const size_t at = static_cast<size_t>(t * k + j);
            CHECK(static_cast<double>(out.weights[at]) ==
                  doctest::Approx(want.weights[static_cast<size_t>(j)]).epsilon(1e-5));
            const int64_t e = want.experts[static_cast<size_t>(j)] - first;
            const int32_t place = out.places[at];
            if (e < 0 || e >= local) {
              CHECK(place == -1);
              continue;
            }
            REQUIRE(place >= out.offsets[static_cast<size_t>(e)]);
            REQUIRE(place < out.offsets[static_cast<size_t>(e) + 1]);
            CHECK(out.place_rows[static_cast<size_t>(place)] == t);
            ++used[static_cast<size_t>(place)];
          }
        }
        for (int64_t p = 0; p < rows * k; ++p) {
          CHECK(used[static_cast<size_t>(p)] == (p < out.offsets.back() ? 1 : 0));
          if (p >= out.offsets.back()) CHECK(out.place_rows[static_cast<size_t>(p)] == 0);
        }
        for (size_t e = 0; e + 1 < out.offsets.size(); ++e)
          CHECK(std::is_sorted(out.place_rows.begin() + out.offsets[e], out.place_rows.begin() + out.offsets[e + 1]));
      }
    }
  }
}

std::unique_ptr<WeightGroup> pack_group(Backend& backend, std::vector<Matrix>& experts, Scheme scheme) {
  std::vector<std::unique_ptr<Weight>> members;
  for (Matrix& w : experts) {
    const Tensor t = w.tensor();
    members.push_back(backend.pack({t.data, DType::kF32, w.rows(), w.cols(), t.row_stride}, scheme));
  }
  return backend.group(std::move(members));
}

TEST_CASE("grouped_gemm gives every row the bits of its expert's own product") {
  std::mt19937 random(2);
  for (const int threads : {1, 3}) {
    const auto backend = test::make_backend(threads);
    for (const Scheme scheme : {Scheme::kF32, Scheme::kBF16, Scheme::kF16}) {
      // Rows per expert: none, one, a few, more than the streamed limit, none at the end.
      const std::vector<int32_t> counts{0, 1, 5, 0, 130, 17, 0};
      std::vector<int32_t> offsets{0};
      for (const int32_t n : counts) offsets.push_back(offsets.back() + n);
      const int64_t rows = offsets.back() + 9, width = 150, depth = 75;
      std::vector<Matrix> experts;
      for (size_t e = 0; e < counts.size(); ++e) experts.emplace_back(width, depth, 1).fill(random, 0.1f);
      const auto group = pack_group(*backend, experts, scheme);
      Matrix x(rows, depth, 3), out(rows, width, 2), alone(rows, width, 2);
      x.fill(random);
      backend->grouped_gemm(out.tensor(), x.tensor(), *group, test::ints(offsets), {});
      for (size_t e = 0; e < counts.size(); ++e) {
        if (counts[e] == 0) continue;
        backend->linear(alone.tensor().rows(offsets[e], counts[e]), x.tensor().rows(offsets[e], counts[e]),
                        group->member(static_cast<int64_t>(e)), {});
        for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r) CHECK(out.row_equals(r, alone, r));
      }
      for (int64_t r = offsets.back(); r < rows; ++r) CHECK(std::isnan(out.at(r, 0)));  // rows of no expert
      CHECK(out.gap_untouched());
    }
  }
}

TEST_CASE("each expert adds a bias of its own to its rows alone") {
  std::mt19937 random(5);
  const auto backend = test::make_backend(3);
  std::vector<int32_t> offsets{0, 0, 4, 4, 135, 135};
  const int64_t rows = offsets.back() + 2, width = 70, depth = 33, n = 5;
  std::vector<Matrix> experts;
  for (int64_t e = 0; e < n; ++e) experts.emplace_back(width, depth).fill(random, 0.1f);
  const auto group = pack_group(*backend, experts, Scheme::kF32);
  Matrix x(rows, depth), bias(n, width), out(rows, width, 2), without(rows, width, 2);
  x.fill(random);
  bias.fill(random);
  backend->grouped_gemm(without.tensor(), x.tensor(), *group, test::ints(offsets), {});
  backend->grouped_gemm(out.tensor(), x.tensor(), *group, test::ints(offsets), bias.tensor());
  for (int64_t r = 0; r < offsets.back(); ++r) {
    for (int64_t i = 0; i < width; ++i) CHECK(out.at(r, i) == without.at(r, i) + bias.at(r < 4 ? 1 : 3, i));
  }
  for (int64_t r = offsets.back(); r < rows; ++r) CHECK(std::isnan(out.at(r, 0)));
  CHECK(out.gap_untouched());
}

TEST_CASE("clamped_swiglu limits gates from above and ups on both sides") {
  const auto backend = test::make_backend();
  std::mt19937 random(6);
  Matrix pairs(9, 74, 1), out(9, 37, 2);
  pairs.fill(random, 6.0f);
  pairs.at(0, 0) = 100.0f, pairs.at(0, 1) = -100.0f;  // 7 sigmoid(11.9) (-7 + 1)
  pairs.at(0, 2) = -100.0f, pairs.at(0, 3) = 100.0f;  // no limit from below
  backend->clamped_swiglu(out.tensor(), pairs.tensor());
  CHECK(out.at(0, 0) == doctest::Approx(-42.0).epsilon(1e-4));
  CHECK(out.at(0, 1) == doctest::Approx(0.0));
  double worst = 0;
  for (int64_t r = 0; r < 9; ++r) {
    for (int64_t i = 0; i < 37; ++i) {
      const double gate = std::min(static_cast<double>(pairs.at(r, 2 * i)), 7.0);
      const double up = std::min(std::max(static_cast<double>(pairs.at(r, 2 * i + 1)), -7.0), 7.0);
      worst = std::max(worst,
                       std::abs(static_cast<double>(out.at(r, i)) - (up + 1) * gate / (1 + std::exp(-1.702 * gate))));
    }
  }
  CHECK(worst < 1e-5);
  CHECK(out.gap_untouched());
}

// A whole layer of experts, by hand: gather, product, sum.
Matrix mix(Backend& backend, Matrix& x, Matrix& logits, const WeightGroup& group, const RouterRule& rule,
           int64_t first) {
  const int64_t rows = x.rows(), k = rule.top_k;
  Routed routed(rows, k, first, group.size());
  backend.route(routed.view, logits.tensor(), rule);
  Matrix sorted(rows * k, x.cols()), y(rows * k, group.member(0).rows()), out(rows, y.cols(), 1);
  backend.gather_rows(sorted.tensor(), x.tensor(), routed.view.rows);
  backend.grouped_gemm(y.tensor(), sorted.tensor(), group, routed.view.offsets, {});
  backend.combine(out.tensor(), y.tensor(), routed.view);
  CHECK(out.gap_untouched());
  return out;
}

TEST_CASE("a mixture equals plain loops, its parts over ranks add up, and a row does not see the batch") {
  const auto backend = test::make_backend();
  std::mt19937 random(3);
  const int64_t rows = 41, depth = 48, width = 70, n = 7;
  std::vector<Matrix> experts;
  for (int64_t e = 0; e < n; ++e) experts.emplace_back(width, depth).fill(random, 0.1f);
  Matrix x(rows, depth), logits(rows, n);
  x.fill(random);
  logits.fill(random);
  const RouterRule rule{3, true};
  const auto group = pack_group(*backend, experts, Scheme::kF32);
  const Matrix out = mix(*backend, x, logits, *group, rule, 0);
  std::vector<Matrix> low(experts.begin(), experts.begin() + 4), high(experts.begin() + 4, experts.end());
  const Matrix a = mix(*backend, x, logits, *pack_group(*backend, low, Scheme::kF32), rule, 0);
  const Matrix b = mix(*backend, x, logits, *pack_group(*backend, high, Scheme::kF32), rule, 4);
  double worst = 0, worst_sum = 0;
  for (int64_t t = 0; t < rows; ++t) {
    const Choice want = expected(logits, t, rule);
    for (int64_t o = 0; o < width; ++o) {
      double sum = 0;
      for (size_t j = 0; j < want.experts.size(); ++j) {
        double dot = 0;
        for (int64_t i = 0; i < depth; ++i)
          dot += static_cast<double>(x.at(t, i)) *
                 static_cast<double>(experts[static_cast<size_t>(want.experts[j])].at(o, i));
        sum += want.weights[j] * dot;
      }
      worst = std::max(worst, std::abs(static_cast<double>(out.at(t, o)) - sum));
      worst_sum = std::max(worst_sum, std::abs(static_cast<double>(a.at(t, o) + b.at(t, o)) - sum));
    }
  }
  CHECK(worst < 1e-5);
  CHECK(worst_sum < 1e-5);
  for (const int64_t t : {int64_t{0}, int64_t{13}, rows - 1}) {
    Matrix one(1, depth), choice(1, n);
    for (int64_t i = 0; i < depth; ++i) one.at(0, i) = x.at(t, i);
    for (int64_t e = 0; e < n; ++e) choice.at(0, e) = logits.at(t, e);
    CHECK(mix(*backend, one, choice, *group, rule, 0).row_equals(0, out, t));
  }
}

TEST_CASE("add_gated adds what the sigmoid lets through") {
  const auto backend = test::make_backend();
  std::mt19937 random(4);
  Matrix out(6, 37, 2), x(6, 37, 1), gate(6, 1);
  out.fill(random);
  x.fill(random);
  gate.fill(random, 3.0f);
  const Matrix before = out;
  backend->add_gated(out.tensor(), x.tensor(), gate.tensor());
  for (int64_t r = 0; r < 6; ++r) {
    const double share = 1 / (1 + std::exp(-static_cast<double>(gate.at(r, 0))));
    for (int64_t i = 0; i < 37; ++i) {
      CHECK(static_cast<double>(out.at(r, i)) ==
            doctest::Approx(static_cast<double>(before.at(r, i)) + share * static_cast<double>(x.at(r, i)))
                .epsilon(1e-5));
    }
  }
}

}  // namespace
}  // namespace sluice
