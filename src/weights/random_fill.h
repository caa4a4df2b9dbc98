// SPDX-License-Identifier: Apache-2.0
// Reproducible random weights: an element depends on a seed and its index in the tensor alone, so that any split of the
// tensor holds the same numbers.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace sluice {

// Elements [first, first + n) of the tensor with `seed`: uniform in [-scale, scale), or ones where scale is 0. `dtype`
// is f32, bf16 or f16.
void fill_random(void* to, DType dtype, uint64_t seed, uint64_t first, int64_t n, float scale);

}  // namespace sluice
