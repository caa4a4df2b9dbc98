// SPDX-License-Identifier: Apache-2.0
#include "weights/convert.h"

#include <cstring>

#include "base/error.h"

namespace sluice {
namespace {
template <class Load, class T>
void store_as(void* to, DType to_dtype, const T* from, int64_t n, Load load) {
  switch (to_dtype) {
    case DType::kF32:
      for (int64_t i = 0; i < n; ++i) static_cast<float*>(to)[i] = load(from[i]);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(to)[i] = f32_to_bf16(load(from[i]));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(to)[i] = f32_to_f16(load(from[i]));
      return;
    default:
      fatal("weights are converted to f32, bf16 or f16 only");
  }
}
}  // namespace

void convert_elements(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n) {
  if (n <= 0) return;
  if (to_dtype == from_dtype) {
    std::memcpy(to, from, static_cast<size_t>(n) * dtype_bytes(to_dtype));
    return;
  }
  switch (from_dtype) {
    case DType::kF32:
      return store_as(to, to_dtype, static_cast<const float*>(from), n, [](float v) { return v; });
    case DType::kBF16:
      return store_as(to, to_dtype, static_cast<const uint16_t*>(from), n, bf16_to_f32);
    case DType::kF16:
      return store_as(to, to_dtype, static_cast<const uint16_t*>(from), n, f16_to_f32);
    case DType::kF64:
      return store_as(to, to_dtype, static_cast<const double*>(from), n,
                      [](double v) { return static_cast<float>(v); });
    default:
      fatal("weights are converted from f32, bf16, f16 or f64 only");
  }
}

}  // namespace sluice
