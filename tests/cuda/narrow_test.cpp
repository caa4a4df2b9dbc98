// SPDX-License-Identifier: Apache-2.0
#include "narrow.h"

#include <memory>

#include "cuda/device_arrays.h"
#include "model/e4m3.h"

namespace sluice {
namespace {
using namespace test;
using kernels::Bits;

// Random numbers with their scales and zeros, on the device, and the floats that they mean.
struct Narrow {
  Bits bits;
  int64_t n, k, stride, group, groups;
  std::vector<uint8_t> numbers;
  std::vector<float> scales, meant;
  std::vector<uint16_t> pairs;  // f16 scale and zero of each group
  std::unique_ptr<DeviceVector<uint8_t>> d_numbers;
  std::unique_ptr<DeviceVector<float>> d_scales;
  std::unique_ptr<DeviceVector<uint16_t>> d_pairs;

  Narrow(std::mt19937& random, Bits bits, int64_t n, int64_t k, int64_t group = 64)
      : bits(bits),
        n(n),
        k(k),
        stride(((bits == Bits::kFour ? (k + 1) / 2 : k) + 15) / 16 * 16),
        group(group),
        groups((k + group - 1) / group),
        numbers(static_cast<size_t>(n * stride)),
        scales(static_cast<size_t>(n * groups)),
        meant(static_cast<size_t>(n * k)),
        pairs(static_cast<size_t>(2 * n * groups)) {
    std::uniform_real_distribution<float> scale(0.001f, 0.01f);
    for (auto& byte : numbers) {  // the padding too
      byte = static_cast<uint8_t>(random());
      if (bits == Bits::kFloat8 && (byte & 127) == 127) byte = 0;  // NaN
    }
    for (auto& s : scales) s = scale(random) * (bits == Bits::kFloat8 ? 0.125f : 1.0f);
    for (size_t i = 0; i < pairs.size(); i += 2) {
      pairs[i] = f32_to_f16(scale(random) * (bits == Bits::kFour ? 8.0f : 0.5f));
      pairs[i + 1] = f32_to_f16(static_cast<float>(random() % (bits == Bits::kFour ? 16 : 256)));
    }
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < k; ++c) {
        const auto* row = numbers.data() + r * stride;
        float& w = meant[static_cast<size_t>(r * k + c)];
        const auto at = static_cast<size_t>(r * groups + c / group);
        if (bits == Bits::kEight) {
          w = static_cast<float>(static_cast<int8_t>(row[c])) * scales[static_cast<size_t>(r)];
        } else if (bits == Bits::kFloat8) {
          w = e4m3(row[c]) * scales[at];
        } else {
          const int number = bits == Bits::kFour ? row[c / 2] >> (4 * (c % 2)) & 15 : row[c];
          w = (static_cast<float>(number) - f16_to_f32(pairs[2 * at + 1])) * f16_to_f32(pairs[2 * at]);
        }
      }
    d_numbers = std::make_unique<DeviceVector<uint8_t>>(numbers);
    d_scales = std::make_unique<DeviceVector<float>>(scales);
    d_pairs = std::make_unique<DeviceVector<uint16_t>>(pairs);
  }
  kernels::NarrowMatrix matrix() const {
    return {d_numbers->data(), d_scales->data(), d_pairs->data(), nullptr, n, k, stride, group, bits};
  }
};

constexpr Bits kAll[] = {Bits::kEight, Bits::kFour, Bits::kEightGroups, Bits::kFloat8};

}  // namespace

TEST_CASE("products with numbers of few bits equal the CPU backend's with the floats that they mean") {
  std::mt19937 random(3);
  struct Shape {
    int64_t rows, n, k, group;
  };
  for (const Bits bits : kAll)
    for (const Type type : kTypes)
      for (const Shape& s :
           {Shape{1, 5, 64, 64}, {1, 17, 320, 32}, {3, 9, 100, 64}, {8, 20, 1024, 128}, {11, 8, 72, 64}}) {
        CAPTURE(s.rows);
        CAPTURE(s.k);
        const Narrow w(random, bits, s.n, s.k, s.group);
        std::vector<float> x = normal(random, s.rows * s.k, type), bias = normal(random, s.n),
                           residual = normal(random, s.rows * s.n, type);
        DeviceMatrix d_x(type, s.rows, s.k, s.k % 8 == 0 ? 8 : 1), d_residual(type, s.rows, s.n, 3);
        d_x.fill(x);
        d_residual.fill(residual);
        const DeviceVector<float> d_bias(bias);
        std::vector<float> expected(static_cast<size_t>(s.rows * s.n));
        std::vector<float> weight = w.meant;
        const auto packed = cpu().pack({weight.data(), DType::kF32, s.n, s.k, s.k}, Scheme::kF32);
        Epilogue epilogue;
        epilogue.bias = Tensor(bias.data(), DType::kF32, {s.n});
        epilogue.residual = host_tensor(residual, s.rows, s.n);
        cpu().linear(host_tensor(expected, s.rows, s.n), host_tensor(x, s.rows, s.k), *packed, epilogue);
        for (const Type out_type : {type, Type::kF32}) {
          DeviceMatrix out(out_type, s.rows, s.n, 2);
          out.fill(std::vector<float>(expected.size()));
          kernels::NarrowParams p{};
          p.w = w.matrix();
          p.out = out.data();
          p.x = d_x.data();
          p.bias = d_bias.data();
          p.residual = d_residual.data();
          p.rows = s.rows;
          p.out_stride = out.stride();
          p.x_stride = d_x.stride();
          p.residual_stride = d_residual.stride();
          p.type = type;
          p.out_type = out_type;
          CUDA_OK(kernels::narrow_gemv(p, nullptr));
          CHECK(worst(out.read(), expected, half_ulp(out_type) + 3e-6f, 3e-5f) < 1);
        }
      }
}

TEST_CASE("a row's product with narrow weights has the same bits whatever rows go with it") {
  std::mt19937 random(4);
  for (const Bits bits : kAll) {
    const Narrow w(random, bits, 12, 320);
    const std::vector<float> x = normal(random, 20 * 320, Type::kBF16);
    DeviceMatrix d_x(Type::kBF16, 20, 320, 8);
    d_x.fill(x);
    const auto product = [&](int64_t first, int64_t rows) {
      DeviceMatrix out(Type::kF32, rows, 12, 0);
      kernels::NarrowParams p{};
      p.w = w.matrix();
      p.out = out.data();
      p.x = static_cast<const char*>(d_x.data()) + first * d_x.stride() * 2;
      p.rows = rows;
      p.out_stride = out.stride();
      p.x_stride = d_x.stride();
      p.type = Type::kBF16;
      p.out_type = Type::kF32;
      CUDA_OK(kernels::narrow_gemv(p, nullptr));
      return out.read();
    };
    const std::vector<float> all = product(0, 20);
    for (int64_t t = 0; t < 20; ++t) {
      const std::vector<float> one = product(t, 1);
      CHECK(std::equal(one.begin(), one.end(), all.begin() + t * 12));
    }
  }
}

TEST_CASE("more rows than a grid has blocks for are multiplied with narrow weights all the same") {
  std::mt19937 random(6);
  constexpr int64_t kRows = 8 * 65535 + 3, kColumns = 16;  // eight to a block
  const Narrow w(random, Bits::kEight, 1, kColumns);
  const std::vector<float> x = normal(random, kRows * kColumns, Type::kF32);
  DeviceMatrix d_x(Type::kF32, kRows, kColumns, 0), out(Type::kF32, kRows, 1, 0);
  d_x.fill(x);
  kernels::NarrowParams p{};
  p.w = w.matrix();
  p.out = out.data();
  p.x = d_x.data();
  p.rows = kRows;
  p.out_stride = out.stride();
  p.x_stride = d_x.stride();
  p.type = p.out_type = Type::kF32;
  CUDA_OK(kernels::narrow_gemv(p, nullptr));
  std::vector<float> expected(static_cast<size_t>(kRows));
  for (int64_t t = 0; t < kRows; ++t)
    for (int64_t k = 0; k < kColumns; ++k)
      expected[static_cast<size_t>(t)] += x[static_cast<size_t>(t * kColumns + k)] * w.meant[static_cast<size_t>(k)];
  CHECK(worst(out.read(), expected, 1e-5f, 1e-5f) < 1);
}

TEST_CASE("narrow weights are widened to the floats that they mean") {
  std::mt19937 random(5);
  for (const Bits bits : kAll)
    for (const Type type : kTypes) {
      const Narrow w(random, bits, 9, 200, 32);
      DeviceMatrix out(type, 9, 200, 8);
      out.fill(std::vector<float>(9 * 200));
      CUDA_OK(kernels::widen({w.matrix(), out.data(), out.stride(), type}, nullptr));
      CHECK(worst(out.read(), w.meant, half_ulp(type) + 1e-6f, 1e-7f) < 1);
    }
}

}  // namespace sluice
