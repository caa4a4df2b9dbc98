// SPDX-License-Identifier: Apache-2.0
#include "rows.h"

#include "cuda/device_arrays.h"

namespace sluice {
namespace {
using namespace test;
using kernels::Function;

constexpr std::pair<Function, Activation> kFunctions[] = {{Function::kSilu, Activation::kSilu},
                                                          {Function::kGeluErf, Activation::kGeluErf},
                                                          {Function::kGeluTanh, Activation::kGeluTanh},
                                                          {Function::kRelu, Activation::kRelu}};

TEST_CASE("embed takes rows of the table, and zeros for ids that live elsewhere") {
  std::mt19937 random(1);
  std::vector<int32_t> ids{7, 0, 16, 5, 4, 15, 99};
  for (const Type type : kTypes) {
    std::vector<float> table = normal(random, 11 * 37, type), want(ids.size() * 37);
    Tensor host_ids = host_ints(ids);
    cpu().embed(host_tensor(want, 7, 37), host_tensor(table, 11, 37), host_ids, 5);
    DeviceMatrix device_table(type, 11, 37, 3), out(type, 7, 37, 1);
    device_table.fill(table);
    out.fill(iota(7 * 37));
    const DeviceVector<int32_t> device_ids(ids);
    CUDA_OK(kernels::embed({out.data(), device_table.data(), device_ids.data(), 7, 37, 11, 5, out.stride(),
                            device_table.stride(), type, type},
                           nullptr));
    CHECK(out.read() == want);
  }
}

TEST_CASE("a gated product is normed in what follows it as the rows would have been before") {
  std::mt19937 random(3);
  for (const Type type : kTypes) {
    for (const auto& [width, x_width] : {std::pair<int64_t, int64_t>{13, 40}, {72, 2056}, {4104, 24}}) {
      CAPTURE(name_of(type));
      CAPTURE(width);
      const int64_t rows = 3;
      const std::vector<float> x = normal(random, rows * x_width, type, 3.0f),
                               in = normal(random, rows * 2 * width, type, 2.0f);
      std::vector<float> want;
      for (int64_t t = 0; t < rows; ++t) {
        double sum = 0;
        for (int64_t i = 0; i < x_width; ++i) {
          const double v = static_cast<double>(x[static_cast<size_t>(t * x_width + i)]);
          sum += v * v;
        }
        const double s = 4.0 / std::sqrt(sum / static_cast<double>(x_width) + 1e-5);
        for (int64_t i = 0; i < width; ++i) {
          const double gate = s * static_cast<double>(in[static_cast<size_t>(t * 2 * width + i)]),
                       up = s * static_cast<double>(in[static_cast<size_t>(t * 2 * width + width + i)]);
          want.push_back(static_cast<float>(gate / (1.0 + std::exp(-gate)) * up));
        }
      }
      DeviceMatrix dx(type, rows, x_width, 8), din(type, rows, 2 * width, 8), out(type, rows, width, 8);
      dx.fill(x);
      din.fill(in);
      out.fill(want);
      in_several_orders([&] {
        CUDA_OK(kernels::normed_gated_activation({out.data(), din.data(), dx.data(), rows, width, x_width, out.stride(),
                                                  din.stride(), dx.stride(), 1e-5f, 4.0f, Function::kSilu, type},
                                                 nullptr));
        CHECK(worst(out.read(), want, half_ulp(type) + 1e-5f, 1e-5f) < 1);
      });
      const DeviceVector<float> factors(normal(random, width));
      const std::vector<float> f = factors.read(), before = out.read();
      CUDA_OK(kernels::scale_columns({out.data(), factors.data(), rows, width, out.stride(), type}, nullptr));
      const std::vector<float> after = out.read();
      for (size_t i = 0; i < after.size(); ++i)
        CHECK(after[i] == round_to(before[i] * f[i % static_cast<size_t>(width)], type));
    }
  }
}

TEST_CASE("norms, with and without the residual, equal the CPU backend's") {
  std::mt19937 random(2);
  for (const Type type : kTypes) {
    for (const int64_t width : {5, 64, 1000, 2056}) {
      for (const bool with_residual : {false, true}) {
        for (const bool mean : {false, true}) {
          CAPTURE(name_of(type));
          CAPTURE(width);
          const int64_t rows = 3;
          std::vector<float> x = normal(random, rows * width, type, 2.0f),
                             residual = normal(random, rows * width, type);
          std::vector<float> weight = normal(random, width), bias = normal(random, width), want(x.size());
          DeviceMatrix dx(type, rows, width, 8), dr(type, rows, width, 16), out(type, rows, width, width % 8);
          dx.fill(x);
          dr.fill(residual);
          out.fill(want);
          const DeviceVector<float> dw(weight), db(bias);
          // What is stored is rounded, so the norm is of the rounded sum.
          std::vector<float> sum = x;
          if (with_residual) {
            for (size_t i = 0; i < sum.size(); ++i) sum[i] = round_to(sum[i] + residual[i], type);
          }
          const Tensor w(weight.data(), DType::kF32, {width}), b(bias.data(), DType::kF32, {width});
          if (mean) {
            cpu().layer_norm(host_tensor(want, rows, width), host_tensor(sum, rows, width), {}, w, b, 1e-5f);
          } else {
            cpu().rms_norm(host_tensor(want, rows, width), host_tensor(sum, rows, width), {}, w, 1e-5f);
          }
          in_several_orders([&] {
            dr.fill(residual);
            const kernels::NormParams p{out.data(),
                                        dx.data(),
                                        with_residual ? dr.data() : nullptr,
                                        dw.data(),
                                        mean ? db.data() : nullptr,
                                        rows,
                                        width,
                                        out.stride(),
                                        dx.stride(),
                                        dr.stride(),
                                        1e-5f,
                                        type};
            CUDA_OK(mean ? kernels::layer_norm(p, nullptr) : kernels::rms_norm(p, nullptr));
            // Two roundings to the type (RMS rounds before the weight), and f32 sums in another order.
            CHECK(worst(out.read(), want, 3 * half_ulp(type) + 1e-5f, 1e-5f) < 1);
            if (with_residual) CHECK(dr.read() == sum);
            CHECK(dx.read() == x);
          });
        }
      }
    }
  }
}

TEST_CASE("a residual beyond float16 becomes the largest that transformers leaves, and NaN stays") {
  const float big = 65504, inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x{big, -big, inf, -inf, 20, 1, std::nanf(""), 8},
      before{big, -big, 1, 1, 65472, 2, 1, 65472};
  const std::vector<float> want{64512, -64512, 64512, -64512, 65504, 3, 0, 65472};
  for (const bool with_norm : {false, true}) {
    DeviceMatrix device_x(Type::kF16, 1, 8, 0), residual(Type::kF16, 1, 8, 0), out(Type::kF16, 1, 8, 0);
    device_x.fill(x);
    residual.fill(before);
    out.fill(before);
    const DeviceVector<float> weight(std::vector<float>(8, 1.0f));
    if (with_norm) {
      CUDA_OK(kernels::rms_norm({out.data(), device_x.data(), residual.data(), weight.data(), nullptr, 1, 8,
                                 out.stride(), device_x.stride(), residual.stride(), 1e-6f, Type::kF16},
                                nullptr));
    } else {
      kernels::AddParams p{};
      p.inout = residual.data();
      p.other = device_x.data();
      p.rows = 1, p.width = 8;
      p.stride = residual.stride(), p.other_stride = device_x.stride();
      p.type = Type::kF16;
      CUDA_OK(kernels::add(p, nullptr));
    }
    std::vector<float> got = residual.read();
    CHECK(std::isnan(got[6]));
    got[6] = 0;
    CHECK(got == want);
  }
}

TEST_CASE("activations, gated and plain, equal the CPU backend's") {
  std::mt19937 random(3);
  for (const Type type : kTypes) {
    for (const auto& [function, activation] : kFunctions) {
      for (const int64_t width : {24, 27}) {
        std::vector<float> in = normal(random, 3 * 2 * width, type, 3.0f), want(static_cast<size_t>(3 * width));
        in[0] = 90.0f;
        in[1] = -90.0f;
        DeviceMatrix din(type, 3, 2 * width), out(type, 3, width, 8);
        din.fill(in);
        out.fill(want);
        cpu().gated_activation(host_tensor(want, 3, width), host_tensor(in, 3, 2 * width), activation);
        CUDA_OK(kernels::gated_activation(
            {out.data(), din.data(), 3, width, out.stride(), din.stride(), function, type}, nullptr));
        CHECK(worst(out.read(), want, half_ulp(type) + 2e-6f, 1e-5f) < 1);
        cpu().activation(host_tensor(in, 3, 2 * width), activation);
        CUDA_OK(kernels::activation({din.data(), 3, 2 * width, din.stride(), function, type}, nullptr));
        CHECK(worst(din.read(), in, half_ulp(type) + 2e-6f, 1e-5f) < 1);
      }
    }
  }
}

TEST_CASE("add, add_bias, gather_rows and convert equal the CPU backend's") {
  std::mt19937 random(4);
  for (const Type type : kTypes) {
    for (const int64_t width : {40, 13}) {
      std::vector<float> x = normal(random, 4 * width, type), other = normal(random, 4 * width, type),
                         bias = normal(random, width);
      DeviceMatrix dx(type, 4, width, 8), d_other(type, 4, width);
      const DeviceVector<float> d_bias(bias);
      dx.fill(x);
      d_other.fill(other);
      std::vector<float> sum = x;
      cpu().add(host_tensor(sum, 4, width), host_tensor(other, 4, width));
      for (float& v : sum) v = round_to(v, type);
      CUDA_OK(
          kernels::add({dx.data(), d_other.data(), nullptr, 4, width, dx.stride(), d_other.stride(), type}, nullptr));
      CHECK(dx.read() == sum);
      cpu().add_bias(host_tensor(sum, 4, width), Tensor(bias.data(), DType::kF32, {width}));
      for (float& v : sum) v = round_to(v, type);
      CUDA_OK(kernels::add({dx.data(), nullptr, d_bias.data(), 4, width, dx.stride(), 0, type}, nullptr));
      CHECK(dx.read() == sum);

      std::vector<int32_t> rows{3, 0, 3, 1, 2};
      const DeviceVector<int32_t> d_rows(rows);
      DeviceMatrix gathered(type, 5, width, width == 40 ? 8 : 1);
      gathered.fill(std::vector<float>(static_cast<size_t>(5 * width)));
      std::vector<float> want(static_cast<size_t>(5 * width));
      cpu().gather_rows(host_tensor(want, 5, width), host_tensor(sum, 4, width), host_ints(rows));
      const auto bytes = static_cast<int64_t>(kernels::type_bytes(type));
      CUDA_OK(kernels::gather_rows(
          {gathered.data(), dx.data(), d_rows.data(), 5, width * bytes, gathered.stride() * bytes, dx.stride() * bytes},
          nullptr));
      CHECK(gathered.read() == want);
      for (const Type to : kTypes) {
        DeviceMatrix converted(to, 4, width, width == 40 ? 0 : 3);
        converted.fill(std::vector<float>(static_cast<size_t>(4 * width)));
        CUDA_OK(kernels::convert({converted.data(), dx.data(), 4, width, converted.stride(), dx.stride(), to, type},
                                 nullptr));
        std::vector<float> narrowed = sum;
        for (float& v : narrowed) v = round_to(v, to);
        CHECK(converted.read() == narrowed);
      }
    }
  }
}

TEST_CASE("head norms, scales and caps equal the CPU backend's") {
  std::mt19937 random(6);
  for (const Type type : kTypes) {
    const int64_t rows = 3, heads = 5, width = 40;
    std::vector<float> x = normal(random, rows * heads * width, type, 4.0f), weight = normal(random, width);
    DeviceMatrix dx(type, rows, heads * width, 8);
    const DeviceVector<float> d_weight(weight);
    dx.fill(x);
    const Tensor host = host_tensor(x, rows, heads * width);
    const auto check = [&] {
      CHECK(worst(dx.read(), x, 2 * half_ulp(type) + 1e-5f, 1e-6f) < 1);
      for (float& v : x) v = round_to(v, type);
      dx.fill(x);
    };
    cpu().head_norm(host, Tensor(weight.data(), DType::kF32, {width}), 1e-6f);
    CUDA_OK(kernels::head_norm({dx.data(), d_weight.data(), rows, heads, width, dx.stride(), 1e-6f, type}, nullptr));
    check();
    cpu().scale(host, 2.75f);
    CUDA_OK(kernels::scale({dx.data(), rows, heads * width, dx.stride(), 2.75f, 0, type}, nullptr));
    check();
    cpu().soft_cap(host, 3.0f);
    CUDA_OK(kernels::scale({dx.data(), rows, heads * width, dx.stride(), 1, 3.0f, type}, nullptr));
    check();
  }
}

TEST_CASE("the read probe reads every word once") {
  std::vector<uint32_t> words(4 * 5003);
  std::mt19937 random(5);
  uint32_t sum = 0;
  for (uint32_t& w : words) sum += w = random();
  const DeviceVector<uint32_t> data(words), out(std::vector<uint32_t>{0});
  CUDA_OK(kernels::read_probe(out.data(), data.data(), words.size() * 4, 3, nullptr));
  CHECK(out.read()[0] == sum);
}

}  // namespace
}  // namespace sluice
