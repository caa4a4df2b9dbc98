// SPDX-License-Identifier: Apache-2.0
#include "tensor/dtype.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "base/error.h"

using namespace sluice;

TEST_CASE("every finite half survives a round trip through f32") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float wide = f16_to_f32(static_cast<uint16_t>(bits));
    if (std::isnan(wide)) continue;
    REQUIRE(f32_to_f16(wide) == bits);
  }
}

TEST_CASE("halves and bfloat16 round to nearest even") {
  CHECK(f32_to_f16(1.0f + 0x1p-11f) == f32_to_f16(1.0f));
  CHECK(f32_to_f16(1.0f + 0x3p-11f) == f32_to_f16(1.0f + 0x1p-9f));
  CHECK(f16_to_f32(f32_to_f16(65519.0f)) == 65504.0f);
  CHECK(std::isinf(f16_to_f32(f32_to_f16(65520.0f))));
  CHECK(f32_to_f16(0x1p-25f) == 0);
  CHECK(f32_to_f16(0x1.8p-25f) == 1);
  CHECK(bf16_to_f32(f32_to_bf16(1.0f + 0x1p-8f)) == 1.0f);
  CHECK(bf16_to_f32(f32_to_bf16(1.0f + 0x3p-8f)) == 1.0f + 0x1p-6f);
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST_CASE("an unknown dtype is refused by name") {
  CHECK(parse_dtype("BF16") == DType::kBF16);
  CHECK(parse_dtype("float16") == DType::kF16);
  CHECK_THROWS_WITH_AS(parse_dtype("float8_e4m3fn"), doctest::Contains("float8_e4m3fn"), Error);
}
