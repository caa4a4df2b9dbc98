// SPDX-License-Identifier: Apache-2.0
// What changes scores before any token is dropped by probability; sample/sampler.h lists order and formulas.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "sample/history.h"
#include "sample/params.h"

namespace sluice {

inline constexpr float kNeverScore = -std::numeric_limits<float>::infinity();

// False: apply_processors() would leave the row as it is.
bool changes_scores(const SamplingParams& params, int64_t position);
void apply_processors(std::span<float> row, const SamplingParams& params, const TokenHistory* history,
                      int64_t position);

// Tokens whose bit is not set never come; bit i of the mask is bit i % 32 of mask[i / 32].
void apply_mask(std::span<float> row, std::span<const uint32_t> mask);

}  // namespace sluice
