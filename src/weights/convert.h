// SPDX-License-Identifier: Apache-2.0
// Conversion of element types while loading.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace sluice {

// Converts n elements, rounding to nearest even. `from` is f32, bf16, f16 or f64; `to` is f32, bf16 or f16. The two may
// not overlap. Equal types are copied.
void convert_elements(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n);

}  // namespace sluice
