// SPDX-License-Identifier: Apache-2.0
// ALiBi: each head prefers near keys by a slope of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "weights/spec.h"

namespace sluice {

// One slope per head. Beyond a power of two the rest take every other slope of the next power.
std::vector<float> alibi_slopes(int64_t n_heads);

// f32 [padded heads] of this rank on the device; zeros for heads that are padding.
Buffer local_slopes(Backend& backend, const std::vector<float>& slopes, const Range& heads);

}  // namespace sluice
