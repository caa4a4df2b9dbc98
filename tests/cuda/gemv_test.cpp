// SPDX-License-Identifier: Apache-2.0
#include "gemv.h"

#include "cuda/device_arrays.h"
#include "rows.h"

namespace sluice {
namespace {
using namespace test;
using kernels::Function;
using kernels::GemvParams;

// Products and their operands, on both sides.
struct Product {
  Type type;
  int64_t rows, n, k;
  std::vector<float> x, weight, bias, residual;
  DeviceMatrix d_x, d_weight, d_residual;
  DeviceVector<float> d_bias;

  Product(std::mt19937& random, Type type, int64_t rows, int64_t n, int64_t k, int64_t parts = 1, int64_t gap = 8)
      : type(type),
        rows(rows),
        n(n),
        k(k),
        x(normal(random, rows * k, type)),
        weight(normal(random, parts * n * k, type, 1.0f / std::sqrt(static_cast<float>(k)))),
        bias(normal(random, parts * n)),
        residual(normal(random, rows * n, type)),
        d_x(type, rows, k, gap),
        d_weight(type, parts * n, k, gap),
        d_residual(type, rows, n, 3),
        d_bias(bias) {
    d_x.fill(x);
    d_weight.fill(weight);
    d_residual.fill(residual);
  }
  GemvParams params(DeviceMatrix& out) const {
    GemvParams p{};
    p.out = out.data();
    p.x = d_x.data();
    p.weight = d_weight.data();
    p.rows = rows;
    p.n = n;
    p.k = k;
    p.out_stride = out.stride();
    p.x_stride = d_x.stride();
    p.weight_stride = d_weight.stride();
    p.residual_stride = d_residual.stride();
    p.type = type;
    p.out_type = out.type();
    return p;
  }
  // x * weight^T + bias + residual by the CPU backend, in f32.
  std::vector<float> expect(std::vector<float> from, bool with_bias, bool with_residual) {
    const int64_t width = static_cast<int64_t>(bias.size());
    std::vector<float> out(static_cast<size_t>(rows * width));
    const auto packed = cpu().pack({weight.data(), DType::kF32, width, k, k}, Scheme::kF32);
    Epilogue epilogue;
    if (with_bias) epilogue.bias = Tensor(bias.data(), DType::kF32, {width});
    if (with_residual) epilogue.residual = host_tensor(residual, rows, width);
    cpu().linear(host_tensor(out, rows, width), host_tensor(from, rows, k), *packed, epilogue);
    return out;
  }
};

TEST_CASE("products of few rows equal the CPU backend's, with bias and residual") {
  std::mt19937 random(8);
  struct Shape {
    int64_t rows, n, k;
  };
  for (const Type type : kTypes) {
    for (const Shape& s : {Shape{1, 5, 8},
                           {1, 48, 64},
                           {3, 17, 296},
                           {8, 33, 1032},
                           {11, 16, 64},
                           {16, 40, 72},
                           {20, 50, 136},
                           {70, 33, 64},
                           {8, 19, 2056},
                           {2, 7, 21}}) {
      CAPTURE(name_of(type));
      CAPTURE(s.rows);
      CAPTURE(s.k);
      Product product(random, type, s.rows, s.n, s.k);
      for (const bool with_bias : {false, true}) {
        for (const bool with_residual : {false, true}) {
          const std::vector<float> want = product.expect(product.x, with_bias, with_residual);
          for (const Type out_type : {type, Type::kF32}) {
            DeviceMatrix out(out_type, s.rows, s.n, 5);
            out.fill(std::vector<float>(static_cast<size_t>(s.rows * s.n)));
            GemvParams p = product.params(out);
            if (with_bias) p.bias = product.d_bias.data();
            if (with_residual) p.residual = product.d_residual.data();
            CUDA_OK(kernels::gemv(p, nullptr));
            CHECK(worst(out.read(), want, half_ulp(out_type) + 1e-6f, 3e-6f) < 1);
          }
        }
      }
    }
  }
}

TEST_CASE("the residual may be the output") {
  std::mt19937 random(9);
  Product product(random, Type::kBF16, 4, 40, 96);
  const std::vector<float> want = product.expect(product.x, false, true);
  in_several_orders([&] {
    product.d_residual.fill(product.residual);
    GemvParams p = product.params(product.d_residual);
    p.residual = p.out;
    CUDA_OK(kernels::gemv(p, nullptr));
    CHECK(worst(product.d_residual.read(), want, half_ulp(Type::kBF16) + 1e-6f, 3e-6f) < 1);
  });
}

TEST_CASE("a gated product equals the product, its rounding and the activation one by one") {
  std::mt19937 random(10);
  for (const Type type : kTypes) {
    for (const int64_t rows : {1, 9, 30, 65}) {
      for (const bool with_bias : {false, true}) {
        CAPTURE(rows);
        Product product(random, type, rows, 21, 72, 2);
        DeviceMatrix both(type, rows, 42), gated(type, rows, 21), out(type, rows, 21, 2);
        both.fill(std::vector<float>(static_cast<size_t>(rows * 42)));
        out.fill(std::vector<float>(static_cast<size_t>(rows * 21)));
        GemvParams p = product.params(both);
        p.n = 42;
        p.bias = with_bias ? product.d_bias.data() : nullptr;
        CUDA_OK(kernels::gemv(p, nullptr));
        CHECK(worst(both.read(), product.expect(product.x, with_bias, false), half_ulp(type) + 1e-6f, 3e-6f) < 1);
        CUDA_OK(kernels::gated_activation(
            {gated.data(), both.data(), rows, 21, gated.stride(), both.stride(), Function::kSilu, type}, nullptr));
        p = product.params(out);
        p.bias = with_bias ? product.d_bias.data() : nullptr;
        p.gated = true;
        p.function = Function::kSilu;
        CUDA_OK(kernels::gemv(p, nullptr));
        CHECK(out.read() == gated.read());
        // And an activation of a plain product.
        DeviceMatrix act(type, rows, 42), plain(type, rows, 42);
        p = product.params(act);
        p.n = 42;
        p.bias = with_bias ? product.d_bias.data() : nullptr;
        p.function = Function::kGeluTanh;
        CUDA_OK(kernels::gemv(p, nullptr));
        CUDA_OK(kernels::activation({both.data(), rows, 42, both.stride(), Function::kGeluTanh, type}, nullptr));
        CHECK(act.read() == both.read());
      }
    }
  }
}

TEST_CASE("a product that normalises its rows equals the norm and the product one by one") {
  std::mt19937 random(11);
  for (const Type type : {Type::kBF16, Type::kF16}) {
    for (const int64_t rows : {1, 3, 8}) {
      for (const int64_t k : {64, rows < 8 ? 2088 : 1288}) {  // what a block of every device has room for
        Product product(random, type, rows, 24, k, 2);
        const std::vector<float> weight = normal(random, k);
        const DeviceVector<float> d_weight(weight);
        DeviceMatrix normed(type, rows, k, 8), out(type, rows, 24), want(type, rows, 24);
        normed.fill(product.x);
        CUDA_OK(kernels::rms_norm({normed.data(), product.d_x.data(), nullptr, d_weight.data(), nullptr, rows, k,
                                   normed.stride(), product.d_x.stride(), 0, 1e-6f, type},
                                  nullptr));
        for (const bool gated : {false, true}) {
          GemvParams p = product.params(want);
          p.gated = gated;
          p.function = gated ? Function::kGeluErf : Function::kNone;
          p.x = normed.data();
          p.x_stride = normed.stride();
          CUDA_OK(kernels::gemv(p, nullptr));
          p.x = product.d_x.data();
          p.x_stride = product.d_x.stride();
          p.out = out.data();
          p.out_stride = out.stride();
          p.norm_weight = d_weight.data();
          p.norm_eps = 1e-6f;
          REQUIRE(kernels::gemv_can_norm(p));
          in_several_orders([&] {
            CUDA_OK(kernels::gemv(p, nullptr));
            CHECK(out.read() == want.read());
          });
        }
      }
    }
  }
  Product wide(random, Type::kBF16, 9, 8, 64);
  DeviceMatrix out(Type::kBF16, 9, 8);
  GemvParams p = wide.params(out);
  p.norm_weight = wide.d_bias.data();
  CHECK_FALSE(kernels::gemv_can_norm(p));
  CHECK(kernels::gemv(p, nullptr) == cudaErrorInvalidValue);
}

TEST_CASE("a row's product has the same bits whatever rows go with it") {
  std::mt19937 random(12);
  for (const Type type : kTypes) {
    Product all(random, type, 130, 20, 520);
    DeviceMatrix reference(Type::kF32, 130, 20);
    CUDA_OK(kernels::gemv(all.params(reference), nullptr));
    const std::vector<float> want = reference.read();
    for (const int64_t rows : {1, 2, 7, 8, 9, 16, 17, 33, 64, 65}) {
      CAPTURE(rows);
      const int64_t first = 130 - rows;
      DeviceMatrix out(Type::kF32, rows, 20);
      GemvParams p = all.params(out);
      p.rows = rows;
      p.x = static_cast<const char*>(p.x) + first * p.x_stride * static_cast<int64_t>(kernels::type_bytes(type));
      CUDA_OK(kernels::gemv(p, nullptr));
      CHECK(out.read() == std::vector<float>(want.begin() + first * 20, want.end()));
    }
  }
}

TEST_CASE("more rows than a grid has blocks for are multiplied all the same") {
  std::mt19937 random(13);
  constexpr int64_t kRows = 4 * 65535 + 9;  // four to a block
  Product many(random, Type::kF32, kRows, 1, 3);
  DeviceMatrix out(Type::kF32, kRows, 1);
  CUDA_OK(kernels::gemv(many.params(out), nullptr));
  CHECK(worst(out.read(), many.expect(many.x, false, false), 1e-6f, 1e-5f) < 1);
}

}  // namespace
}  // namespace sluice
