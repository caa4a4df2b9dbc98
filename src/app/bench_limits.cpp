// SPDX-License-Identifier: Apache-2.0
#include "app/bench_limits.h"

#include <algorithm>
#include <random>

#include "base/clock.h"

namespace sluice {
namespace {
Scheme scheme_of(const std::string& dtype) {
  switch (parse_dtype(dtype)) {
    case DType::kBF16:
      return Scheme::kBF16;
    case DType::kF16:
      return Scheme::kF16;
    default:
      return Scheme::kF32;
  }
}
}  // namespace

ProductProbe::ProductProbe(Backend& backend, const ModelInfo& model) : backend_(backend) {
  const bool fp8 = model.quantised.starts_with("fp8");
  const Scheme scheme = fp8                                   ? Scheme::kFp8
                        : model.quantised.starts_with("int8") ? Scheme::kInt8
                        : model.quantised.starts_with("int4") ? Scheme::kInt4
                                                              : scheme_of(model.dtype);
  name_ = !model.quantised.empty()  ? model.quantised.substr(0, fp8 ? 3 : 4)
          : scheme == Scheme::kBF16 ? "bf16"
          : scheme == Scheme::kF16  ? "f16"
                                    : "f32";
  activation_ = backend.activation_dtype(scheme_of(model.dtype));
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  const int64_t shapes[3][2] = {
      {model.d_model, model.d_model}, {2 * model.d_ff, model.d_model}, {model.d_model, model.d_ff}};
  for (const auto& [rows, cols] : shapes) {
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (float& v : values) v = normal(random);
    HostMatrix matrix{values.data(), DType::kF32, rows, cols, cols};
    std::vector<uint8_t> numbers;
    const std::vector<float> scales(static_cast<size_t>(rows), 0.01f);
    const HostGroups whole_rows{cols, scales.data()};
    if (fp8) {  // not made of floats; no byte is NaN
      for (size_t i = 0; i < values.size(); ++i) numbers.push_back(static_cast<uint8_t>(random() % 127));
      matrix = {numbers.data(), DType::kU8, rows, cols, cols, &whole_rows};
    }
    Product product{backend.pack(matrix, scheme), backend.allocate(static_cast<size_t>(kRows * cols) * 4),
                    backend.allocate(static_cast<size_t>(kRows * rows) * 4)};
    values.resize(static_cast<size_t>(kRows * cols));
    for (float& v : values) v = normal(random);
    const Tensor in = product.in.view(activation_, {kRows, cols});
    if (activation_ == DType::kF32) {
      backend.copy_in(in, values.data());
    } else {
      std::vector<uint16_t> narrow;
      narrow.reserve(values.size());
      for (const float v : values) narrow.push_back(activation_ == DType::kBF16 ? f32_to_bf16(v) : f32_to_f16(v));
      backend.copy_in(in, narrow.data());
    }
    products_.push_back(std::move(product));
  }
}

double ProductProbe::gflops() {
  double best = 0;
  for (int run = 0; run < 3; ++run) {
    double flops = 0;
    const double started = monotonic_seconds();
    for (const Product& product : products_) {
      const int64_t rows = product.weight->rows(), cols = product.weight->cols();
      const Tensor out = product.out.view(activation_, {kRows, rows});
      for (int i = 0; i < 4; ++i)
        backend_.linear(out, product.in.view(activation_, {kRows, cols}), *product.weight, {});
      flops += 4 * 2.0 * static_cast<double>(kRows * rows * cols);
    }
    float done;
    backend_.copy_out(&done, products_.back().out.view(DType::kF32, {1}));
    best = std::max(best, flops / (monotonic_seconds() - started) * 1e-9);
  }
  return best;
}

}  // namespace sluice
