// SPDX-License-Identifier: Apache-2.0
#include "model/alibi.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sluice {

std::vector<float> alibi_slopes(int64_t n_heads) {
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n_heads)));
  // As the reference: the base is rounded to f32, its powers are taken in f32.
  const auto base = [](int64_t n) {
    return static_cast<float>(std::pow(2.0, -std::pow(2.0, 3.0 - std::log2(static_cast<double>(n)))));
  };
  std::vector<float> out;
  for (int64_t i = 1; i <= power; ++i) out.push_back(std::pow(base(power), static_cast<float>(i)));
  for (int64_t i = 1; static_cast<int64_t>(out.size()) < n_heads; i += 2)
    out.push_back(std::pow(base(2 * power), static_cast<float>(i)));
  return out;
}

Buffer local_slopes(Backend& backend, const std::vector<float>& slopes, const Range& heads) {
  std::vector<float> local(static_cast<size_t>(heads.padded), 0.0f);
  std::copy_n(slopes.begin() + heads.begin, heads.count, local.begin());
  Buffer out = backend.allocate(local.size() * sizeof(float));
  backend.copy_in(out.view(DType::kF32, {heads.padded}), local.data());
  return out;
}

}  // namespace sluice
