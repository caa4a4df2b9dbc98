// SPDX-License-Identifier: Apache-2.0
// The one order in which partial sums are added: rank 0 + rank 1 + rank 2 ... for each element by itself.
#pragma once

#include <cstddef>
#include <span>

namespace sluice {

// out[i] = parts[0][i] + parts[1][i] + ...; `out` may be one of the parts.
void sum_in_rank_order(float* out, std::span<const float* const> parts, size_t n);

}  // namespace sluice
