// SPDX-License-Identifier: Apache-2.0
// How float rows become whole numbers: what pack() does, for whoever writes quantised files.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice {

// Sized by the caller. The last group of a row may be short.
struct QuantisedRow {
  std::vector<uint8_t> numbers;  // [cols]
  std::vector<float> scales;     // kInt8: one; kInt4: one for every kInt4Group columns
  std::vector<uint8_t> zeros;    // kInt4; kInt8 has 128
};

// Numbers 1..255 about 128; the scale is the largest magnitude / 127.
void round_row_int8(QuantisedRow& to, const float* row, int64_t cols);
// Numbers 0..15 and scales that f16 holds, chosen for the least squared error among a few ranges.
void round_row_int4(QuantisedRow& to, const float* row, int64_t cols);

}  // namespace sluice
