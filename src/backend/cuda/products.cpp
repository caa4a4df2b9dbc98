// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/products.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "backend/cuda/check.h"
#include "kernels/rows.h"

namespace sluice::cuda {
namespace {

constexpr size_t kWorkspace = size_t{32} << 20;  // what cuBLAS recommends on Hopper

cudaDataType data_type(DType dtype) {
  return dtype == DType::kBF16 ? CUDA_R_16BF : dtype == DType::kF16 ? CUDA_R_16F : CUDA_R_32F;
}

// cuBLASLt is column-major: a row-major [rows, cols] is its [cols, rows].
cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t cols, int64_t stride) {
  cublasLtMatrixLayout_t out = nullptr;
  SLUICE_CUDA(cublasLtMatrixLayoutCreate(&out, data_type(dtype), static_cast<uint64_t>(cols),
                                         static_cast<uint64_t>(rows), stride));
  return out;
}

// Largest power of two up to 256 that divides all the addresses: cuBLASLt takes 256 for granted unless it is told.
uint32_t common_alignment(std::initializer_list<const void*> addresses) {
  uintptr_t bits = 256;
  for (const void* address : addresses) bits |= reinterpret_cast<uintptr_t>(address);
  return static_cast<uint32_t>(bits & -bits);
}

kernels::GemvParams gemv_params(const Tensor& out, const Tensor& x, const CudaWeight& weight,
                                const Epilogue& epilogue) {
  kernels::GemvParams p{};
  p.out = out.data;
  p.x = x.data;
  p.weight = weight.data.data();
  p.bias = epilogue.bias.as<float>();
  p.residual = epilogue.residual.data;
  p.rows = x.dim(0);
  p.n = out.dim(1);
  p.k = x.dim(1);
  p.out_stride = out.row_stride;
  p.x_stride = x.row_stride;
  p.weight_stride = weight.stride;
  p.residual_stride = epilogue.residual ? epilogue.residual.row_stride : 0;
  p.function = kernels::Function::kNone;
  p.type = type_of(x.dtype);
  p.out_type = type_of(out.dtype);
  return p;
}

}  // namespace

kernels::Type type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kernels::Type::kF32;
    case DType::kBF16:
      return kernels::Type::kBF16;
    case DType::kF16:
      return kernels::Type::kF16;
    default:
      fatal("the CUDA kernels take f32, bf16 and f16");
  }
}

kernels::Function function_of(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return kernels::Function::kSilu;
    case Activation::kGeluErf:
      return kernels::Function::kGeluErf;
    case Activation::kGeluTanh:
      return kernels::Function::kGeluTanh;
    case Activation::kRelu:
      return kernels::Function::kRelu;
  }
  fatal("an activation that no CUDA kernel computes");
}

DType stored(Scheme scheme) {
  switch (scheme) {
    case Scheme::kF32:
      return DType::kF32;
    case Scheme::kBF16:
      return DType::kBF16;
    case Scheme::kF16:
      return DType::kF16;
    default:
      throw Error(
          "the CUDA backend computes in float32, bfloat16 or float16; other schemes are those of single weights");
  }
}

kernels::NarrowMatrix CudaWeight::matrix(int64_t first, int64_t n) const {
  const auto whole = static_cast<size_t>(rows()), from = static_cast<size_t>(first);
  kernels::NarrowMatrix m{};
  m.numbers = static_cast<const char*>(data.data()) + first * stride;
  m.groups = static_cast<const char*>(scales.data()) + scales.bytes() / whole * from;
  m.scales = static_cast<const float*>(m.groups);  // one of the two is looked at
  m.order = static_cast<const int32_t*>(order.data());
  m.n = n;
  m.k = cols();
  m.stride = stride;
  m.group = group;
  m.bits = bits;
  return m;
}

Products::Products(cudaStream_t stream, bool deterministic, size_t most_widened)
    : stream_(stream), deterministic_(deterministic), most_widened_(most_widened) {
  if (deterministic_) return;
  SLUICE_CUDA(cublasLtCreate(&handle_));
  workspace_ = allocate_device(kWorkspace, stream);
}

Products::~Products() {
  for (const auto& [shape, plan] : plans_) {
    cublasLtMatmulDescDestroy(plan.product);
    for (const cublasLtMatrixLayout_t l : {plan.weight, plan.x, plan.out, plan.residual})
      if (l != nullptr) cublasLtMatrixLayoutDestroy(l);
  }
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

size_t Products::HashShape::operator()(const Shape& s) const {
  size_t hash = 14695981039346656037u;  // FNV-1a over the fields
  for (const int64_t v : {s.rows, s.n, s.k, s.out_stride, s.x_stride, s.weight_stride, s.residual_stride,
                          int64_t{s.alignment}, static_cast<int64_t>(s.type) * 16 + static_cast<int64_t>(s.out_type)})
    hash = (hash ^ static_cast<size_t>(v)) * 1099511628211u;
  return hash;
}

const Products::Plan& Products::plan(const Shape& s) {
  const auto [found, fresh] = plans_.try_emplace(s);
  Plan& p = found->second;
  if (!fresh) return p;
  SLUICE_CUDA(cublasLtMatmulDescCreate(&p.product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  SLUICE_CUDA(cublasLtMatmulDescSetAttribute(p.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
  p.weight = layout(s.type, s.n, s.k, s.weight_stride);
  p.x = layout(s.type, s.rows, s.k, s.x_stride);
  p.out = layout(s.out_type, s.rows, s.n, s.out_stride);
  if (s.residual_stride > 0) p.residual = layout(s.out_type, s.rows, s.n, s.residual_stride);

  cublasLtMatmulPreference_t preference = nullptr;
  SLUICE_CUDA(cublasLtMatmulPreferenceCreate(&preference));
  SLUICE_CUDA(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspace,
                                                   sizeof kWorkspace));
  for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    SLUICE_CUDA(cublasLtMatmulPreferenceSetAttribute(preference, which, &s.alignment, sizeof s.alignment));
  cublasLtMatmulHeuristicResult_t result{};
  int n = 0;
  SLUICE_CUDA(cublasLtMatmulAlgoGetHeuristic(handle_, p.product, p.weight, p.x,
                                             p.residual != nullptr ? p.residual : p.out, p.out, preference, 1, &result,
                                             &n));
  SLUICE_CUDA(cublasLtMatmulPreferenceDestroy(preference));
  check(n == 1, fmt::format("cuBLASLt has no algorithm for [{}, {}] x [{}, {}]^T", s.rows, s.k, s.n, s.k));
  p.algorithm = result.algo;
  return p;
}

void Products::run(const Tensor& out, const Tensor& x, const CudaWeight& weight, const Epilogue& epilogue) {
  if (weight.narrow()) return run_narrow(out, x, weight, epilogue);
  if (x.dim(0) <= kFewRows || deterministic_) {
    SLUICE_CUDA(kernels::gemv(gemv_params(out, x, weight, epilogue), stream_));
    return;
  }
  run_many(out, x, weight.data.data(), weight.stride, epilogue);
}

void Products::run_narrow(const Tensor& out, const Tensor& x, const CudaWeight& weight, const Epilogue& epilogue) {
  if (x.dim(0) > kFewRows && !deterministic_) {
    constexpr int64_t kWhole = 64;  // rows: parts of the result begin where the whole's alignment has them
    const int64_t stride = (weight.cols() + 7) / 8 * 8;
    const size_t row = static_cast<size_t>(stride) * dtype_bytes(x.dtype);
    const int64_t most = std::max(kWhole, static_cast<int64_t>(most_widened_ / row) / kWhole * kWhole);
    for (int64_t first = 0; first < weight.rows(); first += most) {
      const int64_t n = std::min(most, weight.rows() - first);
      kernels::WidenParams w{};
      w.w = weight.matrix(first, n);
      w.out = widened_.reserve(static_cast<size_t>(n) * row, stream_);
      w.out_stride = stride;
      w.type = type_of(x.dtype);
      SLUICE_CUDA(kernels::widen(w, stream_));
      Epilogue part;
      if (epilogue.bias) part.bias = epilogue.bias.rows(first, n);
      if (epilogue.residual) part.residual = epilogue.residual.columns(first, n);
      run_many(out.columns(first, n), x, w.out, stride, part);
    }
    return;
  }
  SLUICE_CUDA(kernels::narrow_gemv(narrow_params(out, x, weight, epilogue), stream_));
}

kernels::NarrowParams Products::narrow_params(const Tensor& out, const Tensor& x, const CudaWeight& weight,
                                              const Epilogue& epilogue) {
  kernels::NarrowParams p{};
  p.w = weight.matrix();
  p.out = out.data;
  p.x = x.data;
  p.bias = epilogue.bias.as<float>();
  p.residual = epilogue.residual.data;
  p.rows = x.dim(0);
  p.out_stride = out.row_stride;
  p.x_stride = x.row_stride;
  p.residual_stride = epilogue.residual ? epilogue.residual.row_stride : 0;
  p.type = type_of(x.dtype);
  p.out_type = type_of(out.dtype);
  return p;
}

void Products::run_group(const Tensor& out, const Tensor& x, const CudaWeight& first, const void* matrices,
                         const int32_t* offsets, int64_t groups, const float* bias) {
  if (first.narrow()) {
    kernels::NarrowParams p = narrow_params(out, x, first, {});
    p.matrices = static_cast<const kernels::NarrowMatrix*>(matrices);
    p.offsets = offsets;
    p.groups = groups;
    p.bias = bias;
    SLUICE_CUDA(kernels::narrow_gemv(p, stream_));
    return;
  }
  kernels::GemvParams p = gemv_params(out, x, first, {});
  p.weights = static_cast<const void* const*>(matrices);
  p.offsets = offsets;
  p.groups = groups;
  p.bias = bias;
  SLUICE_CUDA(kernels::gemv(p, stream_));
}

void Products::run_many(const Tensor& out, const Tensor& x, const void* weight, int64_t weight_stride,
                        const Epilogue& epilogue, float factor) {
  // The residual comes along as C, which `out` may be, and before the bias.
  const bool with_residual = epilogue.residual && epilogue.residual.dtype == out.dtype;
  const void* const added = with_residual ? epilogue.residual.data : out.data;
  const Plan& p = plan({x.dim(0), out.dim(1), x.dim(1), out.row_stride, x.row_stride, weight_stride,
                        with_residual ? epilogue.residual.row_stride : 0,
                        common_alignment({weight, x.data, added, out.data}), x.dtype, out.dtype});
  const float beta = with_residual ? 1.0f : 0.0f;
  SLUICE_CUDA(cublasLtMatmul(handle_, p.product, &factor, weight, p.weight, x.data, p.x, &beta, added,
                             with_residual ? p.residual : p.out, out.data, p.out, &p.algorithm, workspace_.data(),
                             kWorkspace, stream_));
  check(with_residual || !epilogue.residual, "a residual of another type than the product's result");
  if (!epilogue.bias) return;
  kernels::AddParams add{};
  add.inout = out.data;
  add.bias = epilogue.bias.as<float>();
  add.rows = out.dim(0);
  add.width = out.dim(1);
  add.stride = out.row_stride;
  add.type = type_of(out.dtype);
  SLUICE_CUDA(kernels::add(add, stream_));
}

bool Products::run_fused(const Tensor& out, const Tensor& x, const Tensor& norm, float eps, const CudaWeight& weight,
                         const Epilogue& epilogue, const Activation* gate) {
  if (weight.narrow() || (x.dim(0) > kFewRows && !(deterministic_ && !norm))) return false;
  kernels::GemvParams p = gemv_params(out, x, weight, epilogue);
  if (gate != nullptr) {
    p.gated = true;
    p.function = function_of(*gate);
  }
  if (norm) {
    p.norm_weight = norm.as<float>();
    p.norm_eps = eps;
    if (!kernels::gemv_can_norm(p)) return false;
  }
  SLUICE_CUDA(kernels::gemv(p, stream_));
  return true;
}

void Products::run_folded(const Tensor& out, const Tensor& x, float eps, const CudaWeight& weight, Activation gate,
                          const Tensor& product) {
  const float factor = x.dtype == DType::kF16 ? 0x1p-4f : 1.0f;  // keeps rows that are not normed in range
  run_many(product, x, weight.data.data(), weight.stride, {}, factor);
  kernels::NormedGatedParams p{};
  p.out = out.data;
  p.in = product.data;
  p.x = x.data;
  p.rows = out.dim(0);
  p.width = out.dim(1);
  p.x_width = x.dim(1);
  p.out_stride = out.row_stride;
  p.in_stride = product.row_stride;
  p.x_stride = x.row_stride;
  p.eps = eps;
  p.factor = 1.0f / factor;
  p.function = function_of(gate);
  p.type = type_of(out.dtype);
  SLUICE_CUDA(kernels::normed_gated_activation(p, stream_));
}

}  // namespace sluice::cuda
