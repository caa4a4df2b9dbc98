// SPDX-License-Identifier: Apache-2.0
// Slopes of ALiBi and T5's buckets against values of the reference.
#include <doctest/doctest.h>

#include "model/alibi.h"
#include "model/relative_bias.h"
#include "weights/host_backend.h"

namespace sluice {
namespace {
void check_slopes(int64_t heads, const std::vector<std::pair<size_t, double>>& expected) {
  const std::vector<float> slopes = alibi_slopes(heads);
  CAPTURE(heads);
  REQUIRE(slopes.size() == static_cast<size_t>(heads));
  for (const auto& pair : expected) {
    const size_t head = pair.first;
    CAPTURE(head);
    CHECK(slopes[head] == doctest::Approx(pair.second).epsilon(1e-4));
  }
}
}  // namespace

TEST_CASE("Slopes of a power of two are its powers and beyond it every other one of the next") {
  check_slopes(16, {{0, 0.70711}, {15, 0.0039063}});
  check_slopes(12, {{0, 0.5}, {1, 0.25}, {7, 0.00390625}, {8, 0.70711}, {9, 0.35355}, {10, 0.17678}, {11, 0.08839}});
  check_slopes(112, {{0, 0.91700}, {63, 0.0039063}, {64, 0.95760}, {65, 0.87813}, {111, 0.01632}});
  check_slopes(71, {{70, 0.56939}});
  check_slopes(1, {{0, 0.00390625}});
}

TEST_CASE("A rank has the slopes of its own heads and zeros for padding") {
  const std::vector<float> slopes = alibi_slopes(6);  // 4 powers of 1/4, then 1/2 and 1/8
  test::StoringBackend backend;
  const Buffer local = local_slopes(backend, slopes, {3, 2, 4});
  const auto* values = static_cast<const float*>(local.data());
  REQUIRE(local.bytes() == 4 * sizeof(float));
  CHECK(values[0] == doctest::Approx(1.0 / 256));
  CHECK(values[1] == doctest::Approx(0.5));
  CHECK(values[2] == 0.0f);
  CHECK(values[3] == 0.0f);
  CHECK(local_slopes(backend, slopes, {6, 0, 1}).bytes() == sizeof(float));  // a rank without heads
}

TEST_CASE("Distances fall into the reference's buckets") {
  const RelativeBuckets causal{32, 128, false}, both{32, 128, true};
  const std::pair<int64_t, int64_t> behind[] = {{0, 0},   {1, 1},    {15, 15},  {16, 16},  {17, 16},  {31, 21},
                                                {64, 26}, {100, 30}, {112, 30}, {113, 31}, {127, 31}, {100000, 31}};
  for (const auto& pair : behind) CHECK(relative_bucket(causal, -pair.first) == pair.second);
  CHECK(relative_bucket(causal, 5) == 0);  // a key that does not count
  const std::pair<int64_t, int64_t> ahead[] = {{1, 17}, {8, 24}, {16, 26}, {32, 28}, {64, 30}, {128, 31}};
  for (const auto& pair : ahead) CHECK(relative_bucket(both, pair.first) == pair.second);
  const std::pair<int64_t, int64_t> before[] = {{0, 0}, {1, 1}, {8, 8}, {16, 10}, {32, 12}, {64, 14}, {128, 15}};
  for (const auto& pair : before) CHECK(relative_bucket(both, -pair.first) == pair.second);
}

TEST_CASE("Biases by distance are those of the bucket for local heads and zero for padding") {
  const RelativeBuckets how{8, 20, true};
  std::vector<float> table;
  for (int i = 0; i < 8 * 3; ++i) table.push_back(static_cast<float>(i));
  const std::vector<float> biases = relative_biases(how, table, 3, 1, 2, 3);  // heads 1 and 2, one of padding
  REQUIRE(biases.size() == 3 * 41);
  for (int64_t d = -20; d <= 20; ++d) {
    CHECK(biases[static_cast<size_t>(d + 20)] == static_cast<float>(relative_bucket(how, d) * 3 + 1));
    CHECK(biases[static_cast<size_t>(41 + d + 20)] == static_cast<float>(relative_bucket(how, d) * 3 + 2));
    CHECK(biases[static_cast<size_t>(82 + d + 20)] == 0.0f);
  }
}

}  // namespace sluice
