// SPDX-License-Identifier: Apache-2.0
#include "comm/sum.h"

#include <doctest/doctest.h>

#include <vector>

using namespace sluice;

TEST_CASE("sums are added in rank order") {
  // (1e8 + 1) - 1e8 is 0 in f32; any other order gives 1.
  const float a = 1e8f, b = 1.0f, c = -1e8f;
  float out = -1;
  sum_in_rank_order(&out, std::vector<const float*>{&a, &b, &c}, 1);
  CHECK(out == 0.0f);
  sum_in_rank_order(&out, std::vector<const float*>{&a, &c, &b}, 1);
  CHECK(out == 1.0f);
}

TEST_CASE("a sum may overwrite any of its parts") {
  for (size_t target = 0; target < 3; ++target) {
    std::vector<std::vector<float>> parts(3, std::vector<float>(5000));
    for (size_t r = 0; r < 3; ++r)
      for (size_t i = 0; i < 5000; ++i) parts[r][i] = static_cast<float>(i * (r + 1));
    sum_in_rank_order(parts[target].data(),
                      std::vector<const float*>{parts[0].data(), parts[1].data(), parts[2].data()}, 5000);
    bool right = true;
    for (size_t i = 0; i < 5000; ++i) right = right && parts[target][i] == static_cast<float>(6 * i);
    CHECK(right);
  }
}
