// SPDX-License-Identifier: Apache-2.0
#include "engine/cache_size.h"

#include <doctest/doctest.h>

namespace sluice {
namespace {

ExecutorOptions options(int64_t context) {
  ExecutorOptions o;
  o.max_seqs = 4;
  o.max_rows = 32;
  o.max_context = context;
  o.block_size = 16;
  return o;
}

constexpr auto kAll = CacheGroupSpec::Growth::kPerToken;
constexpr auto kWindow = CacheGroupSpec::Growth::kWindow;

}  // namespace

TEST_CASE("blocks fill the bytes that are given") {
  CHECK(cache_blocks({{"self", kAll, 100, 0}}, options(4096), 4, 160000) == std::vector<int64_t>{100});
  CHECK(cache_blocks({{"self", kAll, 100, 0}}, options(4096), 4, 161599) == std::vector<int64_t>{100});
  CHECK(cache_blocks({{"self", kAll, 100, 0}}, options(4096), 4, 1599) == std::vector<int64_t>{0});
}

TEST_CASE("no more blocks than the sequences can use") {
  CHECK(cache_blocks({{"self", kAll, 100, 0}}, options(100), 4, size_t{1} << 40) == std::vector<int64_t>{4 * 7});
}

TEST_CASE("no more blocks than 32 bits number places of") {
  const auto blocks = cache_blocks({{"self", kAll, 1, 0}}, options(int64_t{1} << 30), 4, size_t{1} << 40);
  CHECK(blocks == std::vector<int64_t>{(int64_t{1} << 31) / 16 - 1});
}

TEST_CASE("a window group takes what its windows need, the rest goes to the others") {
  const std::vector<CacheGroupSpec> groups = {{"self", kAll, 100, 0}, {"window", kWindow, 100, 64}};
  const auto blocks = cache_blocks(groups, options(100000), 4, 1600 * 1000);
  CHECK(blocks[1] == 4 * (4 + 3) + 2);
  CHECK(blocks[0] == 1000 - blocks[1]);
}

TEST_CASE("a group for encoder prompts takes one of every sequence, the rest goes to the others") {
  const std::vector<CacheGroupSpec> groups = {{"self", kAll, 100, 0},
                                              {"cross", CacheGroupSpec::Growth::kFixed, 100, 0}};
  const auto blocks = cache_blocks(groups, options(100000), 4, 1600 * 1000);
  CHECK(blocks[1] == 4 * 2);  // a prompt enters one step of 32 rows
  CHECK(blocks[0] == 1000 - blocks[1]);
}

TEST_CASE("a stage without layers of a group does not limit it") {
  CHECK(cache_blocks({{"self", kAll, 0, 0}}, options(100), 4, 1) == std::vector<int64_t>{4 * 7});
}

}  // namespace sluice
