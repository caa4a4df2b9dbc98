// SPDX-License-Identifier: Apache-2.0
// Matrix products: our own kernels where few rows go with a matrix, cuBLASLt beyond.
#pragma once

#include <cublasLt.h>

#include <unordered_map>

#include "backend/backend.h"
#include "backend/cuda/memory.h"
#include "kernels/gemv.h"
#include "kernels/narrow.h"

namespace sluice::cuda {

kernels::Type type_of(DType dtype);
kernels::Function function_of(Activation activation);
DType stored(Scheme scheme);

// Row-major [rows, cols] in the scheme's dtype, or as numbers of few bits (kernels/narrow.h); rows 16-byte aligned.
struct CudaWeight final : Weight {
  CudaWeight(int64_t rows, int64_t cols, int64_t stride, DType dtype, Buffer data)
      : Weight(rows, cols, data.bytes()), stride(stride), dtype(dtype), data(std::move(data)) {}
  CudaWeight(int64_t rows, int64_t cols, int64_t stride, int64_t group, kernels::Bits bits, Buffer data, Buffer scales)
      : Weight(rows, cols, data.bytes() + scales.bytes()),
        stride(stride),
        dtype(DType::kU8),
        data(std::move(data)),
        scales(std::move(scales)),
        group(group),
        bits(bits) {}
  bool narrow() const { return dtype == DType::kU8; }
  bool takes(DType x) const { return narrow() || x == dtype; }
  kernels::NarrowMatrix matrix() const { return matrix(0, rows()); }  // of a narrow one
  kernels::NarrowMatrix matrix(int64_t first, int64_t n) const;       // rows first to first + n of it

  int64_t stride;  // elements, or bytes
  DType dtype;
  Buffer data;
  Buffer scales;  // of a narrow one
  Buffer order;   // of a narrow one whose columns are in an order of their own: i32 [cols]
  int64_t group = 0;
  kernels::Bits bits = kernels::Bits::kEight;
  bool folded = false;  // Backend::fold_norm
};

class Products {
 public:
  // A narrow matrix is widened so many bytes at a time.
  static constexpr size_t kMostWidened = size_t{128} << 20;
  Products(cudaStream_t stream, bool deterministic, size_t most_widened = kMostWidened);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // out = x * weight^T, then bias and residual. out in the dtype of x, or f32.
  void run(const Tensor& out, const Tensor& x, const CudaWeight& weight, const Epilogue& epilogue);
  // Rows offsets[g] .. offsets[g + 1] of x times matrix g, of `groups` with the shape of `first`, whose places on the
  // device are `matrices`: pointers, or kernels::NarrowMatrix where they are narrow. `bias`: [groups, rows] or null.
  void run_group(const Tensor& out, const Tensor& x, const CudaWeight& first, const void* matrices,
                 const int32_t* offsets, int64_t groups, const float* bias);
  // Backend::fused_linear in one kernel; false where there is none for the shape.
  bool run_fused(const Tensor& out, const Tensor& x, const Tensor& norm, float eps, const CudaWeight& weight,
                 const Epilogue& epilogue, const Activation* gate);
  // The same of a folded matrix for many rows, gated: the rows are multiplied as they are, and normed in what follows.
  bool takes_folded(int64_t rows) const { return rows > kFewRows && !deterministic_; }
  void run_folded(const Tensor& out, const Tensor& x, float eps, const CudaWeight& weight, Activation gate,
                  const Tensor& product);

  // Rows up to which the own kernels read a matrix once and win. With deterministic they take every number.
  static constexpr int64_t kFewRows = 16;

 private:
  struct Shape {
    int64_t rows, n, k, out_stride, x_stride, weight_stride, residual_stride;
    uint32_t alignment;  // bytes, of all addresses
    DType type, out_type;
    bool operator==(const Shape&) const = default;
  };
  struct HashShape {
    size_t operator()(const Shape& s) const;
  };
  struct Plan {
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatrixLayout_t weight = nullptr, x = nullptr, out = nullptr, residual = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
  };
  const Plan& plan(const Shape& shape);
  static kernels::NarrowParams narrow_params(const Tensor& out, const Tensor& x, const CudaWeight& weight,
                                             const Epilogue& epilogue);
  void run_narrow(const Tensor& out, const Tensor& x, const CudaWeight& weight, const Epilogue& epilogue);
  void run_many(const Tensor& out, const Tensor& x, const void* weight, int64_t weight_stride, const Epilogue& epilogue,
                float factor = 1.0f);

  cudaStream_t stream_;
  bool deterministic_;
  size_t most_widened_;
  cublasLtHandle_t handle_ = nullptr;
  Buffer workspace_;
  Workspace widened_;  // a narrow matrix on its way through cuBLASLt
  std::unordered_map<Shape, Plan, HashShape> plans_;
};

}  // namespace sluice::cuda
