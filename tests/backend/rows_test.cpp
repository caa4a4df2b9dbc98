// SPDX-License-Identifier: Apache-2.0
// Operations that treat rows one by one.
#include <functional>

#include "backend/arrays.h"
#include "base/error.h"

namespace sluice {
namespace {
using test::Matrix;

// |got - want| within `ulps` units of 2^-23 of the magnitude.
bool near(float got, double want, double ulps, double magnitude) {
  return std::abs(static_cast<double>(got) - want) <= ulps * 0x1p-23 * magnitude + 1e-30;
}

void check_matrix(const Matrix& got, double ulps, const std::function<double(int64_t, int64_t)>& want,
                  double floor = 0.0) {
  int64_t wrong = 0;
  for (int64_t r = 0; r < got.rows(); ++r) {
    for (int64_t c = 0; c < got.cols(); ++c) {
      const double w = want(r, c);
      if (!near(got.at(r, c), w, ulps, std::max(std::abs(w), floor))) {
        if (wrong++ == 0) {
          CAPTURE(r);
          CAPTURE(c);
          CHECK(static_cast<double>(got.at(r, c)) == w);
        }
      }
    }
  }
  CHECK(wrong == 0);
  CHECK(got.gap_untouched());
}

TEST_CASE("embed takes rows of the table and zeros for ids held elsewhere") {
  const auto backend = test::make_backend();
  std::mt19937 random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    Matrix source(5, 19);
    source.fill(random, 1.0f, dtype);
    std::vector<uint16_t> half;
    for (int64_t r = 0; r < 5; ++r) {
      for (int64_t c = 0; c < 19; ++c)
        half.push_back(dtype == DType::kBF16 ? f32_to_bf16(source.at(r, c)) : f32_to_f16(source.at(r, c)));
    }
    const Tensor table = dtype == DType::kF32 ? source.tensor() : Tensor(half.data(), dtype, {5, 19});
    std::vector<int32_t> ids{12, 10, 9, 14, 15, 0};
    Matrix out(6, 19, 2);
    backend->embed(out.tensor(), table, test::ints(ids), 10);
    check_matrix(out, 0, [&](int64_t r, int64_t c) {
      const int64_t row = ids[static_cast<size_t>(r)] - 10;
      return row >= 0 && row < 5 ? static_cast<double>(source.at(row, c)) : 0.0;
    });
  }
}

TEST_CASE("rms_norm equals its formula, with and without the residual") {
  const auto backend = test::make_backend();
  std::mt19937 random(2);
  for (const int64_t width : {1, 7, 16, 64, 100, 2048}) {
    for (const bool with_residual : {false, true}) {
      CAPTURE(width);
      Matrix x(9, width, 3), residual(9, width, 1), out(9, width, 2);
      x.fill(random);
      residual.fill(random);
      std::vector<float> weight(static_cast<size_t>(width));
      for (float& w : weight) w = 0.5f + static_cast<float>(random() % 100) * 0.01f;
      Matrix before = x, sum = residual;
      backend->rms_norm(out.tensor(), x.tensor(), with_residual ? residual.tensor() : Tensor(), test::floats(weight),
                        1e-5f);
      const auto value = [&](int64_t r, int64_t c) {
        return with_residual ? static_cast<double>(before.at(r, c) + sum.at(r, c))
                             : static_cast<double>(before.at(r, c));
      };
      check_matrix(out, 8, [&](int64_t r, int64_t c) {
        double squares = 0;
        for (int64_t i = 0; i < width; ++i) squares += value(r, i) * value(r, i);
        return value(r, c) / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(1e-5f)) *
               static_cast<double>(weight[static_cast<size_t>(c)]);
      });
      check_matrix(x, 0, [&](int64_t r, int64_t c) { return static_cast<double>(before.at(r, c)); });
      check_matrix(residual, 0, [&](int64_t r, int64_t c) {
        return with_residual ? value(r, c) : static_cast<double>(sum.at(r, c));
      });
    }
  }
}

TEST_CASE("layer_norm equals its formula, with and without bias and residual") {
  const auto backend = test::make_backend();
  std::mt19937 random(3);
  for (const int64_t width : {3, 16, 77, 768}) {
    for (const bool extras : {false, true}) {
      CAPTURE(width);
      Matrix x(5, width), residual(5, width), out(5, width, 4);
      x.fill(random);
      residual.fill(random);
      std::vector<float> weight(static_cast<size_t>(width)), bias(static_cast<size_t>(width));
      for (float& w : weight) w = 0.5f + static_cast<float>(random() % 100) * 0.01f;
      for (float& b : bias) b = static_cast<float>(random() % 100) * 0.01f;
      Matrix before = residual;
      backend->layer_norm(out.tensor(), x.tensor(), extras ? residual.tensor() : Tensor(), test::floats(weight),
                          extras ? test::floats(bias) : Tensor(), 1e-5f);
      const auto value = [&](int64_t r, int64_t c) {
        return static_cast<double>(extras ? x.at(r, c) + before.at(r, c) : x.at(r, c));
      };
      check_matrix(
          out, 16,
          [&](int64_t r, int64_t c) {
            double mean = 0, squares = 0;
            for (int64_t i = 0; i < width; ++i) mean += value(r, i) / static_cast<double>(width);
            for (int64_t i = 0; i < width; ++i) squares += (value(r, i) - mean) * (value(r, i) - mean);
            return (value(r, c) - mean) / std::sqrt(squares / static_cast<double>(width) + 1e-5) *
                       static_cast<double>(weight[static_cast<size_t>(c)]) +
                   (extras ? static_cast<double>(bias[static_cast<size_t>(c)]) : 0.0);
          },
          1.0);
    }
  }
}

double exact(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluErf:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return x > 0 ? x : 0;
  }
  return 0;
}

TEST_CASE("activations equal their formulas over the whole range") {
  const auto backend = test::make_backend();
  for (const Activation a : {Activation::kSilu, Activation::kGeluErf, Activation::kGeluTanh, Activation::kRelu}) {
    CAPTURE(static_cast<int>(a));
    Matrix x(3, 403, 1);
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t c = 0; c < 403; ++c)
        x.at(r, c) = (static_cast<float>(c) - 201.0f) * 0.05f * std::pow(5.0f, static_cast<float>(r));
    }
    Matrix before = x;
    backend->activation(x.tensor(), a);
    // Near zero crossings of the factor the error is relative to x, not to the result.
    check_matrix(
        x, 16, [&](int64_t r, int64_t c) { return exact(a, static_cast<double>(before.at(r, c))); }, 1.0);
  }
}

TEST_CASE("gated_activation multiplies the activated first half by the second") {
  const auto backend = test::make_backend();
  std::mt19937 random(4);
  for (const int64_t width : {5, 32, 171}) {
    for (const Activation a : {Activation::kSilu, Activation::kGeluErf, Activation::kGeluTanh, Activation::kRelu}) {
      Matrix both(7, 2 * width, 3), out(7, width, 1);
      both.fill(random, 3.0f);
      backend->gated_activation(out.tensor(), both.tensor(), a);
      check_matrix(
          out, 32,
          [&](int64_t r, int64_t c) {
            return exact(a, static_cast<double>(both.at(r, c))) * static_cast<double>(both.at(r, width + c));
          },
          1.0);
    }
  }
}

TEST_CASE("add, add_bias and gather_rows are exact") {
  const auto backend = test::make_backend();
  std::mt19937 random(5);
  Matrix a(6, 37, 2), b(6, 37, 1), c(6, 37);
  a.fill(random);
  b.fill(random);
  c.fill(random);
  Matrix first = a, third = c;
  backend->add(a.tensor(), b.tensor());
  check_matrix(a, 0, [&](int64_t r, int64_t i) { return static_cast<double>(first.at(r, i) + b.at(r, i)); });
  std::vector<float> bias(37);
  for (float& v : bias) v = static_cast<float>(random() % 1000) * 0.37f;
  backend->add_bias(c.tensor(), test::floats(bias));
  check_matrix(
      c, 0, [&](int64_t r, int64_t i) { return static_cast<double>(third.at(r, i) + bias[static_cast<size_t>(i)]); });
  std::vector<int32_t> rows{5, 0, 0, 3};
  Matrix out(4, 37, 3);
  backend->gather_rows(out.tensor(), b.tensor(), test::ints(rows));
  check_matrix(out, 0,
               [&](int64_t r, int64_t i) { return static_cast<double>(b.at(rows[static_cast<size_t>(r)], i)); });
}

TEST_CASE("scale, soft_cap and head_norm equal their formulas") {
  const auto backend = test::make_backend();
  std::mt19937 random(9);
  Matrix a(5, 93, 2), b(5, 93, 1), heads(5, 72, 3);
  a.fill(random);
  b.fill(random, 40.0f);
  heads.fill(random, 3.0f);
  const Matrix a0 = a, b0 = b, heads0 = heads;
  backend->scale(a.tensor(), 1.7f);
  check_matrix(a, 0, [&](int64_t r, int64_t i) { return static_cast<double>(a0.at(r, i) * 1.7f); });
  backend->soft_cap(b.tensor(), 30.0f);
  check_matrix(
      b, 16, [&](int64_t r, int64_t i) { return 30.0 * std::tanh(static_cast<double>(b0.at(r, i)) / 30.0); }, 30.0);
  std::vector<float> weight(24);
  for (float& w : weight) w = 0.5f + static_cast<float>(random() % 100) * 0.01f;
  backend->head_norm(heads.tensor(), test::floats(weight), 1e-6f);
  check_matrix(heads, 8, [&](int64_t r, int64_t i) {
    double squares = 0;
    for (int64_t j = i / 24 * 24; j < i / 24 * 24 + 24; ++j)
      squares += static_cast<double>(heads0.at(r, j)) * static_cast<double>(heads0.at(r, j));
    return static_cast<double>(heads0.at(r, i)) / std::sqrt(squares / 24 + 1e-6) *
           static_cast<double>(weight[static_cast<size_t>(i % 24)]);
  });
}

TEST_CASE("copy_blocks copies whole blocks in order") {
  const auto backend = test::make_backend();
  std::vector<float> cache(4 * 2 * 3 * 5);
  for (size_t i = 0; i < cache.size(); ++i) cache[i] = static_cast<float>(i);
  const std::vector<float> before = cache;
  std::vector<int32_t> pairs{0, 2, 2, 3, 1, 1};
  backend->copy_blocks(Tensor(cache.data(), DType::kF32, {4, 2, 3, 5}), Tensor(pairs.data(), DType::kI32, {3, 2}));
  const size_t block = 30;
  for (size_t i = 0; i < block; ++i) {
    CHECK(cache[i] == before[i]);
    CHECK(cache[block + i] == before[block + i]);
    CHECK(cache[2 * block + i] == before[i]);
    CHECK(cache[3 * block + i] == before[i]);
  }
}

TEST_CASE("memory comes zeroed, keeps copies and is refused beyond what there is") {
  const auto backend = test::make_backend();
  const Buffer small = backend->allocate(1000), large = backend->allocate((size_t{5} << 20) + 12);
  for (const Buffer* b : {&small, &large}) {
    const auto* bytes = static_cast<const unsigned char*>(b->data());
    CHECK(std::all_of(bytes, bytes + b->bytes(), [](unsigned char c) { return c == 0; }));
  }
  const Tensor view = large.view(DType::kF32, {100, 3}, 256);
  std::vector<float> in(300), out(300);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  backend->copy_in(view, in.data());
  backend->copy_out(out.data(), view);
  CHECK(in == out);
  CHECK(backend->free_bytes() > 0);
  CHECK_THROWS_AS(backend->allocate(backend->free_bytes() * 2 + (size_t{1} << 40)), Error);
}

TEST_CASE("the backend names its threads and refuses an unknown instruction set") {
  CpuOptions options;
  options.threads = 3;
  options.isa = "avx2";
  CHECK(make_cpu_backend(options)->describe() == "cpu, 3 threads, AVX2");
  options.isa = "avx9";
  CHECK_THROWS_WITH_AS(make_cpu_backend(options), "cpu-isa: expected auto or avx2, found 'avx9'", Error);
}

TEST_CASE("a cap holds beside a backend that has none") {
  std::mt19937 random(8);
  Matrix x(4, 1000), before(4, 1000), after(4, 1000);
  x.fill(random);
  std::vector<float> weight(1000, 1.0f);
  CpuOptions options;
  options.isa = "avx2";
  const auto capped = make_cpu_backend(options);
  capped->rms_norm(before.tensor(), x.tensor(), Tensor(), test::floats(weight), 1e-5f);
  options.isa = "auto";
  const auto best = make_cpu_backend(options);
  best->rms_norm(after.tensor(), x.tensor(), Tensor(), test::floats(weight), 1e-5f);
  capped->rms_norm(after.tensor(), x.tensor(), Tensor(), test::floats(weight), 1e-5f);
  for (int64_t r = 0; r < 4; ++r) CHECK(after.row_equals(r, before, r));
}

TEST_CASE("the read probe answers with a plausible rate") {
  const auto backend = test::make_backend();
  const double rate = backend->probe_read_gbps(size_t{16} << 20);
  CHECK(rate > 0.1);
  CHECK(rate < 100000);
}

}  // namespace
}  // namespace sluice
