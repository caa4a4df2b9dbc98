// SPDX-License-Identifier: Apache-2.0
// The calls of cuBLASLt that the backend makes, on the CPU: one plain product in f32, queued on the stream.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "runtime.h"

namespace {

struct Layout {
  cudaDataType type;
  uint64_t rows, cols;
  int64_t ld;
};
struct Desc {
  cublasComputeType_t compute;
  int32_t trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N;
};
// What an algorithm was chosen for: using it for anything else is the mistake that the real library may not report.
struct Chosen {
  uint64_t n, rows, k;
  uint32_t alignment;  // bytes, that all addresses were said to have
};
struct Preference {
  size_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

[[noreturn]] void refuse(const char* what) {
  std::fprintf(stderr, "the stand-in for cuBLASLt does not do this: %s\n", what);
  std::abort();
}

float load(cudaDataType type, const void* data, int64_t i) {
  switch (type) {
    case CUDA_R_32F:
      return static_cast<const float*>(data)[i];
    case CUDA_R_16BF:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    case CUDA_R_16F:
      return __half2float(static_cast<const __half*>(data)[i]);
    default:
      refuse("an element type");
  }
}

void store(cudaDataType type, void* data, int64_t i, float v) {
  switch (type) {
    case CUDA_R_32F:
      static_cast<float*>(data)[i] = v;
      return;
    case CUDA_R_16BF:
      static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(v);
      return;
    case CUDA_R_16F:
      static_cast<__half*>(data)[i] = __float2half_rn(v);
      return;
    default:
      refuse("an element type");
  }
}

std::vector<float> widened(const Layout& l, const void* data) {
  std::vector<float> out(l.rows * l.cols);
  for (uint64_t c = 0; c < l.cols; ++c) {
    for (uint64_t r = 0; r < l.rows; ++r)
      out[c * l.rows + r] = load(l.type, data, static_cast<int64_t>(c) * l.ld + static_cast<int64_t>(r));
  }
  return out;
}

// d[j][i] = alpha * sum over k of a[i][k] * b[j][k] + beta * c[j][i], with the columns of the layouts as rows here.
void multiply(float alpha, const Layout& a, const void* a_data, const Layout& b, const void* b_data, float beta,
              const Layout& c, const void* c_data, const Layout& d, void* d_data) {
  const std::vector<float> left = widened(a, a_data), right = widened(b, b_data);
  for (uint64_t j = 0; j < d.cols; ++j) {
    for (uint64_t i = 0; i < d.rows; ++i) {
      const float *x = &left[i * a.rows], *y = &right[j * b.rows];
      float lanes[8] = {};
      uint64_t k = 0;
      for (; k + 8 <= a.rows; k += 8) {
        for (uint64_t l = 0; l < 8; ++l) lanes[l] += x[k + l] * y[k + l];
      }
      for (; k < a.rows; ++k) lanes[0] += x[k] * y[k];
      float sum = 0;
      for (const float lane : lanes) sum += lane;
      const int64_t at = static_cast<int64_t>(j) * d.ld + static_cast<int64_t>(i);
      sum *= alpha;
      if (beta != 0) sum += beta * load(c.type, c_data, static_cast<int64_t>(j) * c.ld + static_cast<int64_t>(i));
      store(d.type, d_data, at, sum);
    }
  }
}

template <class T>
T* mine(void* opaque) {
  return static_cast<T*>(opaque);
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* out) {
  *out = reinterpret_cast<cublasLtHandle_t>(new char);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<char*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED" : "another status";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* out, cublasComputeType_t compute, cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) refuse("sums in another type than f32");
  *out = reinterpret_cast<cublasLtMatmulDesc_t>(new Desc{compute});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete mine<Desc>(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  if (attribute != CUBLASLT_MATMUL_DESC_TRANSA || bytes != sizeof(int32_t)) refuse("an attribute of a product");
  std::memcpy(&mine<Desc>(desc)->trans_a, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* out, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
  if (ld < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *out = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, cols, ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete mine<Layout>(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* out) {
  *out = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete mine<Preference>(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  Preference& p = *mine<Preference>(preference);
  const int matrix = attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
  if (matrix >= 0 && matrix < 4 && bytes == sizeof(uint32_t)) {
    std::memcpy(&p.alignment[matrix], value, bytes);
  } else if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && bytes == sizeof(size_t)) {
    std::memcpy(&p.workspace, value, bytes);
  } else {
    refuse("a preference");
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc_in,
                                              cublasLtMatrixLayout_t a_in, cublasLtMatrixLayout_t b_in,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d_in,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* out, int* found) {
  if (sluice::emulation::capturing()) return CUBLAS_STATUS_NOT_SUPPORTED;
  const Desc& desc = *mine<Desc>(desc_in);
  const Layout &a = *mine<Layout>(a_in), &b = *mine<Layout>(b_in), &d = *mine<Layout>(d_in);
  if (desc.trans_a != CUBLAS_OP_T || desc.trans_b != CUBLAS_OP_N) refuse("another transposition");
  if (a.rows != b.rows || d.rows != a.cols || d.cols != b.cols || a.type != b.type) return CUBLAS_STATUS_INVALID_VALUE;
  *found = wanted >= 1 ? 1 : 0;
  static_assert(sizeof(Chosen) <= sizeof(cublasLtMatmulAlgo_t));
  const Chosen chosen{a.cols, b.cols, a.rows, *std::ranges::min_element(mine<Preference>(preference)->alignment)};
  std::memcpy(&out->algo, &chosen, sizeof chosen);
  out->workspaceSize = 0;
  out->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void*, size_t,
                              cudaStream_t stream) {
  const Layout la = *mine<Layout>(a_layout), lb = *mine<Layout>(b_layout), lc = *mine<Layout>(c_layout),
               ld = *mine<Layout>(d_layout);
  Chosen chosen;
  std::memcpy(&chosen, algorithm, sizeof chosen);
  if (chosen.n != la.cols || chosen.rows != lb.cols || chosen.k != la.rows) return CUBLAS_STATUS_INVALID_VALUE;
  for (const void* matrix : {a, b, c, static_cast<const void*>(d)})
    if (reinterpret_cast<uintptr_t>(matrix) % chosen.alignment != 0)
      refuse("a matrix at an address that divides by less than its preference says");
  const float by = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  sluice::emulation::count_launch();
  if (!sluice::emulation::computes()) return CUBLAS_STATUS_SUCCESS;
  const cudaError_t error = sluice::emulation::enqueue(stream, [=] { multiply(by, la, a, lb, b, keep, lc, c, ld, d); });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
