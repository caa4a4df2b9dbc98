// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "backend/arrays.h"

namespace sluice {
namespace {
using test::Matrix;

DType stored(Scheme scheme) {
  return scheme == Scheme::kF32 ? DType::kF32 : scheme == Scheme::kBF16 ? DType::kBF16 : DType::kF16;
}
constexpr Scheme kSchemes[] = {Scheme::kF32, Scheme::kBF16, Scheme::kF16};

std::unique_ptr<Weight> pack(Backend& backend, Matrix& w, Scheme scheme) {
  const Tensor t = w.tensor();
  return backend.pack({t.data, DType::kF32, w.rows(), w.cols(), t.row_stride}, scheme);
}

// Activations and weights are exact in the weights' type, so only the order of f32 additions differs: each of `depth`
// additions errs by at most 2^-24 of the sum of magnitudes, and a few more for multiplying before adding.
void check_product(Backend& backend, Scheme scheme, int64_t rows, int64_t out_width, int64_t depth, bool bias,
                   bool residual) {
  CAPTURE(static_cast<int>(scheme));
  CAPTURE(rows);
  CAPTURE(out_width);
  CAPTURE(depth);
  std::mt19937 random(7);
  Matrix x(rows, depth, 3), w(out_width, depth, 5), out(rows, out_width, 2), extra(rows, out_width, 1);
  x.fill(random, 1.0f, stored(scheme));
  w.fill(random, 0.1f, stored(scheme));
  extra.fill(random);
  std::vector<float> b(static_cast<size_t>(out_width));
  for (float& v : b) v = static_cast<float>(random() % 100) * 0.01f;
  const auto packed = pack(backend, w, scheme);
  CHECK(packed->bytes() == static_cast<size_t>(out_width * depth) * dtype_bytes(stored(scheme)));
  Epilogue epilogue;
  if (bias) epilogue.bias = test::floats(b);
  if (residual) epilogue.residual = extra.tensor();
  backend.linear(out.tensor(), x.tensor(), *packed, epilogue);
  CHECK(out.gap_untouched());
  bool close = true;
  for (int64_t r = 0; r < rows && close; ++r) {
    for (int64_t n = 0; n < out_width && close; ++n) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const double term = static_cast<double>(x.at(r, k)) * static_cast<double>(w.at(n, k));
        sum += term;
        magnitude += std::abs(term);
      }
      if (bias) sum += static_cast<double>(b[static_cast<size_t>(n)]);
      if (residual) sum += static_cast<double>(extra.at(r, n));
      const double bound = (magnitude + std::abs(sum)) * static_cast<double>(depth + 4) * 0x1p-24;
      close = std::abs(static_cast<double>(out.at(r, n)) - sum) <= bound;
      if (!close) MESSAGE(fmt::format("row {} column {}: {} expected {} +- {}", r, n, out.at(r, n), sum, bound));
    }
  }
  CHECK(close);
}

TEST_CASE("a product equals plain loops for every stored type and odd shapes") {
  const auto backend = test::make_backend();
  for (const Scheme scheme : kSchemes) {
    for (const int64_t rows : {1, 2, 3, 5, 7, 11, 13, 16, 17, 31, 33, 50})
      check_product(*backend, scheme, rows, 45, 67, rows % 2 == 0, rows % 3 == 0);
    check_product(*backend, scheme, 1, 1, 1, true, true);
    check_product(*backend, scheme, 4, 300, 33, false, true);
    check_product(*backend, scheme, 3, 32, 1100, true, false);
    check_product(*backend, scheme, 260, 70, 600, true, true);
  }
}

TEST_CASE("a product with one and three threads gives the same bits") {
  std::mt19937 random(3);
  Matrix x(21, 200), w(333, 200), one(21, 333), three(21, 333);
  x.fill(random);
  w.fill(random);
  for (const Scheme scheme : kSchemes) {
    const auto a = test::make_backend(1), b = test::make_backend(3);
    a->linear(one.tensor(), x.tensor(), *pack(*a, w, scheme), {});
    b->linear(three.tensor(), x.tensor(), *pack(*b, w, scheme), {});
    for (int64_t r = 0; r < 21; ++r) CHECK(one.row_equals(r, three, r));
  }
}

TEST_CASE("a row of a product does not depend on how many rows go with it") {
  const auto backend = test::make_backend();
  std::mt19937 random(5);
  for (const Scheme scheme : kSchemes) {
    for (const auto& [width, depth] : {std::pair<int64_t, int64_t>{96, 1056}, {130, 250}}) {
      CAPTURE(static_cast<int>(scheme));
      CAPTURE(depth);
      Matrix x(512, depth), w(width, depth), all(512, width);
      x.fill(random);
      w.fill(random, 0.05f);
      const auto packed = pack(*backend, w, scheme);
      backend->linear(all.tensor(), x.tensor(), *packed, {});
      std::vector<int64_t> counts;
      for (int64_t m = 1; m <= 64; ++m) counts.push_back(m);
      counts.insert(counts.end(), {100, 239, 240, 241, 256, 300, 480, 511});
      for (const int64_t m : counts) {
        const int64_t first = m % 5;  // the row also moves within its block
        if (first + m > 512) continue;
        Matrix some(m, width);
        backend->linear(some.tensor(), x.tensor().rows(first, m), *packed, {});
        bool same = true;
        for (int64_t r = 0; r < m; ++r) same = same && some.row_equals(r, all, first + r);
        CAPTURE(m);
        CHECK(same);
      }
    }
  }
}

TEST_CASE("a row of a product does not see what its neighbours hold") {
  const auto backend = test::make_backend();
  std::mt19937 random(6);
  Matrix x(20, 128), w(64, 128), clean(20, 64), spoiled(20, 64);
  x.fill(random);
  w.fill(random);
  for (const Scheme scheme : kSchemes) {
    const auto packed = pack(*backend, w, scheme);
    backend->linear(clean.tensor(), x.tensor(), *packed, {});
    const float kept = x.at(4, 9);
    x.at(4, 9) = NAN;
    backend->linear(spoiled.tensor(), x.tensor(), *packed, {});
    x.at(4, 9) = kept;
    for (int64_t r = 0; r < 20; ++r) CHECK(spoiled.row_equals(r, clean, r) == (r != 4));
    CHECK(std::isnan(spoiled.at(4, 0)));
  }
}

TEST_CASE("weights are rounded to the nearest value of their stored type") {
  const auto backend = test::make_backend();
  Matrix x(1, 4), w(2, 4), out(1, 2);
  const float values[] = {1.00390625f + 0x1p-20f, 3.14159265f, -0.1f, 1e-5f};
  for (int64_t k = 0; k < 4; ++k) {
    w.at(0, k) = values[k];
    w.at(1, k) = 0;
  }
  for (const Scheme scheme : kSchemes) {
    const auto packed = pack(*backend, w, scheme);
    for (int64_t k = 0; k < 4; ++k) {
      for (int64_t j = 0; j < 4; ++j) x.at(0, j) = j == k ? 1.0f : 0.0f;
      backend->linear(out.tensor(), x.tensor(), *packed, {});
      CHECK(out.at(0, 0) == test::rounded(values[k], stored(scheme)));
      CHECK(out.at(0, 1) == 0.0f);
    }
  }
}

TEST_CASE("weights are packed from bf16 and f16 sources without loss") {
  const auto backend = test::make_backend();
  Matrix x(1, 3), out(1, 1);
  const float values[] = {0.5f, -1.25f, 3.0f};
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    uint16_t raw[3];
    for (int i = 0; i < 3; ++i) raw[i] = dtype == DType::kBF16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
    for (const Scheme scheme : kSchemes) {
      const auto packed = backend->pack({raw, dtype, 1, 3, 3}, scheme);
      for (int64_t k = 0; k < 3; ++k) {
        for (int64_t j = 0; j < 3; ++j) x.at(0, j) = j == k ? 2.0f : 0.0f;
        backend->linear(out.tensor(), x.tensor(), *packed, {});
        CHECK(out.at(0, 0) == 2.0f * values[k]);
      }
    }
  }
}

}  // namespace
}  // namespace sluice
