// SPDX-License-Identifier: Apache-2.0
// Arrays for the tests of the backend: owned values, seen as tensors with a row stride of their own choice.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "backend/backend.h"

namespace sluice::test {

inline std::unique_ptr<Backend> make_backend(int threads = 2) {
  CpuOptions options;
  options.threads = threads;
  return make_cpu_backend(options);
}

// Rounds to the nearest value that `dtype` holds.
inline float rounded(float v, DType dtype) {
  if (dtype == DType::kBF16) return bf16_to_f32(f32_to_bf16(v));
  if (dtype == DType::kF16) return f16_to_f32(f32_to_f16(v));
  return v;
}

// [rows][stride] f32, of which `cols` per row count; the gap holds NaN, which nothing may touch and which shows where
// it is read.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, int64_t gap = 0) : rows_(rows), cols_(cols), stride_(cols + gap) {
    values_.assign(static_cast<size_t>(rows * stride_), std::numeric_limits<float>::quiet_NaN());
  }
  float& at(int64_t r, int64_t c) { return values_[static_cast<size_t>(r * stride_ + c)]; }
  float at(int64_t r, int64_t c) const { return values_[static_cast<size_t>(r * stride_ + c)]; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  Tensor tensor() {
    Tensor t(values_.data(), DType::kF32, {rows_, cols_});
    t.row_stride = stride_;
    return t;
  }
  bool gap_untouched() const {
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = cols_; c < stride_; ++c) {
        if (!std::isnan(at(r, c))) return false;
      }
    }
    return true;
  }
  bool row_equals(int64_t r, const Matrix& other, int64_t other_row) const {
    return std::memcmp(&values_[static_cast<size_t>(r * stride_)],
                       &other.values_[static_cast<size_t>(other_row * other.stride_)],
                       static_cast<size_t>(cols_) * sizeof(float)) == 0;
  }

  // Normal values, rounded to `dtype`.
  Matrix& fill(std::mt19937& random, float scale = 1.0f, DType dtype = DType::kF32) {
    std::normal_distribution<float> normal(0, scale);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) at(r, c) = rounded(normal(random), dtype);
    }
    return *this;
  }

 private:
  int64_t rows_, cols_, stride_;
  std::vector<float> values_;
};

inline Tensor ints(std::vector<int32_t>& v) { return Tensor(v.data(), DType::kI32, {static_cast<int64_t>(v.size())}); }
inline Tensor floats(std::vector<float>& v) { return Tensor(v.data(), DType::kF32, {static_cast<int64_t>(v.size())}); }

}  // namespace sluice::test
