// SPDX-License-Identifier: Apache-2.0
#include "sample/random.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "sample/fixed_math.h"

using namespace sluice;

TEST_CASE("philox gives the published known answers") {  // Random123 kat_vectors, philox4x32 10
  using Words = std::array<uint32_t, 4>;
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniform numbers of one draw are even across tokens: chi-square over 64 bins") {
  std::vector<int> bins(64);
  constexpr int kTokens = 128000;
  TokenNoise noise(42, 0, 1000);
  double sum = 0;
  for (int id = 0; id < kTokens; ++id) {
    const double u = noise.uniform(id);
    REQUIRE(u > 0.0);
    REQUIRE(u < 1.0);
    sum += u;
    ++bins[static_cast<size_t>(u * 64)];
  }
  double chi = 0;
  for (const int count : bins) chi += (count - kTokens / 64.0) * (count - kTokens / 64.0) / (kTokens / 64.0);
  CHECK(chi < 103.4);  // 63 degrees of freedom, 0.1 %
  CHECK(chi > 33.0);
  CHECK(sum / kTokens == doctest::Approx(0.5).epsilon(0.01));
}

TEST_CASE("noise does not depend on the order of ids and stays below its bound") {
  TokenNoise up(7, 2, 5), down(7, 2, 5);
  std::vector<double> forward;
  for (int id = 0; id < 1000; ++id) forward.push_back(up.gumbel(id));
  for (int id = 999; id >= 0; --id) CHECK(down.gumbel(id) == forward[static_cast<size_t>(id)]);
  CHECK(*std::max_element(forward.begin(), forward.end()) < TokenNoise::kMaxGumbel);
  CHECK(-fixed_log(-fixed_log(1.0 - 0x1p-33)) < TokenNoise::kMaxGumbel);
  double mean = 0;
  for (const double g : forward) mean += g / 1000;
  CHECK(mean == doctest::Approx(0.5772).epsilon(0.2));
}

TEST_CASE("distances to one are those of the single numbers") {
  TokenNoise noise(99, 1, 12);
  std::vector<float> distance(301);
  noise.distance_to_one(8, distance);
  for (int i = 0; i < 301; ++i) {
    CHECK(static_cast<double>(distance[static_cast<size_t>(i)]) ==
          doctest::Approx(1.0 - noise.uniform(8 + i)).epsilon(1e-6));
  }
}

TEST_CASE("fixed exp and log agree with the C library") {
  for (float x = -86.5f; x <= 0.0f; x += 0.00371f) {
    const double expected = std::exp(static_cast<double>(x));
    REQUIRE(std::abs(static_cast<double>(fixed_exp(x)) - expected) <= 3e-7 * expected);
  }
  CHECK(fixed_exp(0.0f) == 1.0f);
  CHECK(fixed_exp(-INFINITY) == 0.0f);
  for (double x = 1e-10; x < 1e12; x *= 1.37) {
    REQUIRE(fixed_log(x) == doctest::Approx(std::log(x)).epsilon(1e-13));
  }
  CHECK(fixed_log(1.0) == 0.0);
}
