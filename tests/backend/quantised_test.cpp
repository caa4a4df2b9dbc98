// SPDX-License-Identifier: Apache-2.0
// Products of quantised weights against plain loops over the same whole numbers.
#include <fmt/format.h>

#include "backend/arrays.h"

namespace sluice {
namespace {
using test::Matrix;

constexpr Scheme kQuantised[] = {Scheme::kInt8, Scheme::kInt4};

std::unique_ptr<Weight> pack(Backend& backend, Matrix& w, Scheme scheme) {
  const Tensor t = w.tensor();
  return backend.pack({t.data, DType::kF32, w.rows(), w.cols(), t.row_stride}, scheme);
}

// Weights that are quantised already.
struct Numbers {
  Numbers(int64_t rows, int64_t cols, int64_t group, int levels, std::mt19937& random) : rows(rows), cols(cols) {
    groups.group = group;
    const int64_t n = (cols + group - 1) / group;
    for (int64_t i = 0; i < rows * cols; ++i)
      q.push_back(static_cast<uint8_t>(random() % static_cast<unsigned>(levels)));
    for (int64_t i = 0; i < rows * n; ++i) {
      scale.push_back(test::rounded(0.001f * static_cast<float>(1 + random() % 50), DType::kF16));
      zero.push_back(static_cast<float>(random() % static_cast<unsigned>(levels)));
    }
    groups.scale = scale.data();
    groups.zero = zero.data();
  }
  HostMatrix matrix() const { return {q.data(), DType::kU8, rows, cols, cols, &groups}; }
  float value(int64_t r, int64_t k) const {
    const auto g = static_cast<size_t>(r * ((cols + groups.group - 1) / groups.group) + k / groups.group);
    return (static_cast<float>(q[static_cast<size_t>(r * cols + k)]) - zero[g]) * scale[g];
  }
  int64_t rows, cols;
  std::vector<uint8_t> q;
  std::vector<float> scale, zero;
  HostGroups groups;
};

// The activations as kernels see them: rounded to whole numbers up to 127 of each group's largest.
std::vector<double> rounded_row(const Matrix& x, int64_t r, const std::vector<int32_t>& order, int64_t group) {
  std::vector<double> out;
  for (int64_t k = 0; k < x.cols(); k += group) {
    const int64_t end = std::min(k + group, x.cols());
    const auto at = [&](int64_t i) { return x.at(r, order.empty() ? i : order[static_cast<size_t>(i)]); };
    float largest = 0;
    for (int64_t i = k; i < end; ++i) largest = std::max(largest, std::abs(at(i)));
    for (int64_t i = k; i < end; ++i) {
      const float q = largest > 0 ? std::nearbyint(at(i) * (127.0f / largest)) : 0.0f;
      out.push_back(static_cast<double>(q) * static_cast<double>(largest / 127.0f));
    }
  }
  return out;
}

void check_given(Scheme scheme, int64_t rows, int64_t out_width, int64_t cols, int64_t group, int64_t x_group,
                 bool shuffled) {
  CAPTURE(static_cast<int>(scheme));
  CAPTURE(rows);
  CAPTURE(cols);
  CAPTURE(group);
  const auto backend = test::make_backend();
  std::mt19937 random(11);
  Matrix x(rows, cols, 3), out(rows, out_width, 2), extra(rows, out_width, 1);
  x.fill(random);
  extra.fill(random);
  std::vector<float> bias(static_cast<size_t>(out_width), 0.5f);
  Numbers w(out_width, cols, group, scheme == Scheme::kInt4 ? 16 : 256, random);
  if (scheme == Scheme::kInt8)
    for (float& z : w.zero) z = 128;
  std::vector<int32_t> order;
  if (shuffled) {
    for (int64_t k = 0; k < cols; ++k) order.push_back(static_cast<int32_t>((k * 7 + 3) % cols));
    w.groups.order = order.data();
  }
  const auto packed = backend->pack(w.matrix(), scheme);
  CHECK(packed->rows() == out_width);
  CHECK(packed->cols() == cols);
  Epilogue epilogue;
  epilogue.bias = test::floats(bias);
  epilogue.residual = extra.tensor();
  backend->linear(out.tensor(), x.tensor(), *packed, epilogue);
  CHECK(out.gap_untouched());
  for (int64_t r = 0; r < rows; ++r) {
    const std::vector<double> row = rounded_row(x, r, order, x_group);
    for (int64_t n = 0; n < out_width; ++n) {
      double sum = 0.5 + static_cast<double>(extra.at(r, n)), magnitude = std::abs(sum);
      for (int64_t k = 0; k < cols; ++k) {
        const double term = row[static_cast<size_t>(k)] * static_cast<double>(w.value(n, k));
        sum += term;
        magnitude += std::abs(term);
      }
      const bool close = std::abs(static_cast<double>(out.at(r, n)) - sum) <= magnitude * 1e-6;
      if (!close) MESSAGE(fmt::format("row {} column {}: {} expected {}", r, n, out.at(r, n), sum));
      REQUIRE(close);
    }
  }
}

TEST_CASE("products of numbers that are quantised already equal plain loops") {
  for (const int64_t rows : {1, 2, 3, 4, 5, 7, 12, 17, 33}) {
    check_given(Scheme::kInt8, rows, 45, 192, 192, 64, false);
    check_given(Scheme::kInt4, rows, 45, 192, 64, 64, false);
    check_given(Scheme::kInt8Groups, rows, 45, 192, 64, 64, false);
  }
  check_given(Scheme::kInt8Groups, 70, 70, 1024, 128, 128, true);
  check_given(Scheme::kInt8Groups, 3, 40, 1000, 1000, 256, true);
  check_given(Scheme::kInt8, 3, 70, 67, 67, 64, false);
  check_given(Scheme::kInt8, 100, 33, 1000, 1000, 64, false);
  check_given(Scheme::kInt4, 3, 70, 64, 32, 32, false);
  check_given(Scheme::kInt4, 70, 70, 1024, 128, 128, true);
  check_given(Scheme::kInt4, 3, 40, 1000, 1000, 256, true);
  check_given(Scheme::kInt4, 2, 40, 384, 96, 96, false);
  check_given(Scheme::kInt4, 2, 40, 1024, 512, 256, false);
  check_given(Scheme::kInt4, 5, 40, 100, 64, 64, true);
}

TEST_CASE("weights rounded while packing lie within half a step of the originals") {
  const auto backend = test::make_backend();
  std::mt19937 random(2);
  constexpr int64_t kRows = 40, kCols = 150;
  Matrix w(kRows, kCols), x(1, kCols), out(1, kRows);
  w.fill(random, 0.05f);
  for (const Scheme scheme : kQuantised) {
    const auto packed = pack(*backend, w, scheme);
    double squares = 0, errors = 0;
    for (int64_t k = 0; k < kCols; ++k) {
      for (int64_t j = 0; j < kCols; ++j) x.at(0, j) = j == k ? 1.0f : 0.0f;
      backend->linear(out.tensor(), x.tensor(), *packed, {});
      for (int64_t r = 0; r < kRows; ++r) {
        const double off = static_cast<double>(out.at(0, r)) - static_cast<double>(w.at(r, k));
        squares += static_cast<double>(w.at(r, k)) * static_cast<double>(w.at(r, k));
        errors += off * off;
        if (scheme == Scheme::kInt8) {
          float largest = 0;
          for (int64_t j = 0; j < kCols; ++j) largest = std::max(largest, std::abs(w.at(r, j)));
          CHECK(std::abs(off) <= static_cast<double>(largest) / 254.0 * 1.001);
        }
      }
    }
    CHECK(std::sqrt(errors / squares) < (scheme == Scheme::kInt8 ? 0.01 : 0.12));
  }
}

TEST_CASE("quantised weights need the bytes that their scheme promises") {
  const auto backend = test::make_backend();
  std::mt19937 random(2);
  Matrix w(64, 512);
  w.fill(random);
  CHECK(pack(*backend, w, Scheme::kInt8)->bytes() == 64 * 512 + 64 * 4);
  CHECK(pack(*backend, w, Scheme::kInt4)->bytes() == 64 * 512 / 2 + 64 * 512 / kInt4Group * 3);
}

TEST_CASE("a row of a quantised product depends neither on its neighbours nor on threads") {
  std::mt19937 random(5);
  for (const Scheme scheme : kQuantised) {
    CAPTURE(static_cast<int>(scheme));
    const auto one = test::make_backend(1), three = test::make_backend(3);
    Matrix x(200, 600), w(130, 600), all(200, 130);
    x.fill(random);
    w.fill(random, 0.05f);
    const auto packed = pack(*three, w, scheme), alone = pack(*one, w, scheme);
    three->linear(all.tensor(), x.tensor(), *packed, {});
    for (int64_t m = 1; m <= 70; ++m) {
      Matrix some(m, 130);
      one->linear(some.tensor(), x.tensor().rows(m % 5, m), *alone, {});
      bool same = true;
      for (int64_t r = 0; r < m; ++r) same = same && some.row_equals(r, all, m % 5 + r);
      CAPTURE(m);
      CHECK(same);
    }
    Matrix spoiled(20, 130);
    x.at(4, 9) = NAN;
    three->linear(spoiled.tensor(), x.tensor().rows(0, 20), *packed, {});
    for (int64_t r = 0; r < 20; ++r) CHECK(spoiled.row_equals(r, all, r) == (r != 4));
    CHECK(std::isnan(spoiled.at(4, 0)));
  }
}

TEST_CASE("a quantised product gives the same bits with narrow and wide vectors") {
  std::mt19937 random(8);
  CpuOptions narrow;
  narrow.threads = 1;
  narrow.isa = "avx2";
  const auto a = make_cpu_backend(narrow), b = test::make_backend(1);
  Matrix x(9, 300), w(50, 300), left(9, 50), right(9, 50);
  x.fill(random);
  w.fill(random);
  for (const Scheme scheme : kQuantised) {
    a->linear(left.tensor(), x.tensor(), *pack(*a, w, scheme), {});
    b->linear(right.tensor(), x.tensor(), *pack(*b, w, scheme), {});
    for (int64_t r = 0; r < 9; ++r) CHECK(left.row_equals(r, right, r));
  }
}

}  // namespace
}  // namespace sluice
