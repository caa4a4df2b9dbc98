// SPDX-License-Identifier: Apache-2.0
#include "tensor/dtype.h"

#include <fmt/format.h>

#include "base/error.h"

namespace sluice {
namespace {
struct Row {
  DType dtype;
  size_t bytes;
  std::string_view torch, brief, safetensors;
};
constexpr Row kRows[] = {
    {DType::kF32, 4, "float32", "f32", "F32"}, {DType::kBF16, 2, "bfloat16", "bf16", "BF16"},
    {DType::kF16, 2, "float16", "f16", "F16"}, {DType::kF64, 8, "float64", "f64", "F64"},
    {DType::kI64, 8, "int64", "i64", "I64"},   {DType::kI32, 4, "int32", "i32", "I32"},
    {DType::kI16, 2, "int16", "i16", "I16"},   {DType::kI8, 1, "int8", "i8", "I8"},
    {DType::kU8, 1, "uint8", "u8", "U8"},      {DType::kBool, 1, "bool", "bool", "BOOL"},
};
const Row& row(DType dtype) { return kRows[static_cast<size_t>(dtype)]; }
}  // namespace

size_t dtype_bytes(DType dtype) { return row(dtype).bytes; }
std::string_view dtype_name(DType dtype) { return row(dtype).torch; }

DType parse_dtype(std::string_view name) {
  for (const Row& r : kRows) {
    if (name == r.torch || name == r.brief || name == r.safetensors) return r.dtype;
  }
  std::string known;
  for (const Row& r : kRows) known += fmt::format("{}{}", known.empty() ? "" : ", ", r.torch);
  throw Error(fmt::format("dtype '{}' is unknown; known are {}", name, known));
}

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  uint32_t wide;
  if (exponent == 0x1fu) {
    wide = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    wide = sign | ((exponent + 112u) << 23) | (mantissa << 13);
  } else {
    const float tiny = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&wide, &tiny, sizeof wide);
    wide |= sign;
  }
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t f32_to_f16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                        // below 2^-14: subnormal, in units of 2^-24
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    const float magic = shifted + 0.5f;  // aligns the mantissa so that the unit in the last place is 2^-24
    uint32_t aligned;
    std::memcpy(&aligned, &magic, sizeof aligned);
    return static_cast<uint16_t>(sign | (aligned - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace sluice
