// SPDX-License-Identifier: Apache-2.0
// The same ops on the CUDA backend and on the CPU's, from the same numbers.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda.h"

extern "C" const sluice::CudaModule* sluice_cuda_module(uint32_t version);

namespace sluice::test {

inline std::unique_ptr<Backend> make_cuda(bool deterministic = false) {
  CudaOptions options;
  options.deterministic = deterministic;
  return sluice_cuda_module(kCudaModuleVersion)->make(options);
}

inline float rounded(float v, DType dtype) {
  if (dtype == DType::kBF16) return bf16_to_f32(f32_to_bf16(v));
  if (dtype == DType::kF16) return f16_to_f32(f32_to_f16(v));
  return v;
}

// Half a unit in the last place, relative.
inline double half_ulp(DType dtype) {
  return dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
}

// A backend with the tensors that a test puts on it.
class Side {
 public:
  Side(std::unique_ptr<Backend> backend, DType activations) : backend_(std::move(backend)), dtype_(activations) {}
  Backend& operator*() { return *backend_; }
  Backend* operator->() { return backend_.get(); }
  DType dtype() const { return dtype_; }

  Tensor matrix(const std::vector<float>& values, int64_t rows, int64_t cols, int64_t gap = 0) {
    return put(values, rows, cols, gap, dtype_);
  }
  Tensor put(const std::vector<float>& values, int64_t rows, int64_t cols, int64_t gap, DType dtype) {
    std::vector<char> bytes(values.size() * dtype_bytes(dtype));
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t narrow = dtype == DType::kBF16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
      if (dtype == DType::kF32) {
        std::memcpy(bytes.data() + 4 * i, &values[i], 4);
      } else {
        std::memcpy(bytes.data() + 2 * i, &narrow, 2);
      }
    }
    held_.push_back(backend_->allocate(static_cast<size_t>(rows * (cols + gap)) * dtype_bytes(dtype)));
    const Tensor t = held_.back().view(dtype, {rows, cols + gap}).columns(0, cols);
    if (!values.empty()) backend_->copy_in(t, bytes.data());
    return t;
  }
  Tensor empty(int64_t rows, int64_t cols, int64_t gap = 0) { return matrix({}, rows, cols, gap); }
  Tensor floats(const std::vector<float>& values) {
    return put(values, 1, static_cast<int64_t>(values.size()), 0, DType::kF32)
        .reshaped({static_cast<int64_t>(values.size())});
  }
  Tensor ints(const std::vector<int32_t>& values) {
    held_.push_back(backend_->allocate(std::max<size_t>(1, values.size()) * sizeof(int32_t)));
    const Tensor t = held_.back().view(DType::kI32, {static_cast<int64_t>(values.size())});
    if (!values.empty()) backend_->copy_in(t, values.data());
    return t;
  }

  std::vector<float> read(const Tensor& t) {
    std::vector<float> out;
    for (int64_t r = 0; r < t.dim(0); ++r) {
      const Tensor row = t.rank == 1 ? t : Tensor(t.row(r), t.dtype, {t.row_elements()});
      std::vector<char> bytes(row.bytes());
      backend_->copy_out(bytes.data(), row);
      for (int64_t i = 0; i < row.elements(); ++i) {
        float wide = 0;
        uint16_t narrow = 0;
        std::memcpy(t.dtype == DType::kF32 ? static_cast<void*>(&wide) : &narrow,
                    bytes.data() + static_cast<size_t>(i) * dtype_bytes(t.dtype), dtype_bytes(t.dtype));
        out.push_back(t.dtype == DType::kF32    ? wide
                      : t.dtype == DType::kBF16 ? bf16_to_f32(narrow)
                                                : f16_to_f32(narrow));
      }
      if (t.rank == 1) break;
    }
    return out;
  }

 private:
  std::unique_ptr<Backend> backend_;
  DType dtype_;
  std::vector<Buffer> held_;
};

inline Side cpu_side() {
  CpuOptions options;
  options.threads = 1;
  return Side(make_cpu_backend(options), DType::kF32);
}

inline std::vector<float> normal(std::mt19937& random, int64_t n, DType dtype = DType::kF32, float scale = 1.0f) {
  std::normal_distribution<float> draw(0, scale);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = rounded(draw(random), dtype);
  return out;
}

// |got - want| within `units` half units in the last place of `dtype`, of max(|want|, floor).
inline void check_near(const std::vector<float>& got, const std::vector<float>& want, DType dtype, double units,
                       double floor) {
  REQUIRE(got.size() == want.size());
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double w = static_cast<double>(want[i]), error = std::abs(static_cast<double>(got[i]) - w);
    const double allowed = units * half_ulp(dtype) * std::max(std::abs(w), floor);
    worst = std::isnan(error) ? 1e30 : std::max(worst, error / allowed);
  }
  CHECK(worst <= 1.0);
}

constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16};
inline Scheme scheme_of(DType dtype) {
  return dtype == DType::kF32 ? Scheme::kF32 : dtype == DType::kBF16 ? Scheme::kBF16 : Scheme::kF16;
}

}  // namespace sluice::test
