// SPDX-License-Identifier: Apache-2.0
#include "schedule/block_pool.h"

#include <doctest/doctest.h>

#include <set>

namespace sluice {

TEST_CASE("blocks are handed out once and come back") {
  BlockPool pool(3, 4);
  std::set<int32_t> taken;
  for (int i = 0; i < 3; ++i) taken.insert(pool.allocate());
  CHECK(taken == std::set<int32_t>{0, 1, 2});
  CHECK(pool.available() == 0);
  CHECK(pool.allocate() == -1);
  pool.retain(1);
  pool.release(1);
  CHECK(pool.available() == 0);
  pool.release(1);
  CHECK(pool.available() == 1);
  CHECK(pool.allocate() == 1);
}

TEST_CASE("a cached block is found by its tokens and those before it, also when nobody refers to it") {
  BlockPool pool(4, 2);
  const std::vector<int32_t> a = {1, 2}, b = {3, 4};
  const int32_t x = pool.allocate(), y = pool.allocate();
  const auto ea = pool.insert(x, BlockPool::kRoot, a);
  const auto eb = pool.insert(y, ea, b);
  CHECK(ea != eb);
  CHECK(pool.find(BlockPool::kRoot, a) == x);
  CHECK(pool.find(ea, b) == y);
  CHECK(pool.find(BlockPool::kRoot, b) == -1);
  CHECK(pool.find(eb, a) == -1);
  pool.release(y);
  pool.release(x);
  CHECK(pool.available() == 4);
  CHECK(pool.find(ea, b) == y);
  pool.retain(y);
  CHECK(pool.available() == 3);
  CHECK(pool.refs(y) == 1);
}

TEST_CASE("of two blocks with one content the first is kept in the cache") {
  BlockPool pool(4, 2);
  const std::vector<int32_t> a = {1, 2};
  const int32_t x = pool.allocate(), y = pool.allocate();
  const auto first = pool.insert(x, BlockPool::kRoot, a);
  CHECK(pool.insert(y, BlockPool::kRoot, a) == first);
  CHECK(pool.entry(y) == BlockPool::kRoot);
  CHECK(pool.find(BlockPool::kRoot, a) == x);
}

TEST_CASE("free blocks go first, then cached ones, the least recently used first") {
  BlockPool pool(4, 1);
  std::vector<int32_t> blocks, content = {0};
  for (int32_t i = 0; i < 3; ++i) {
    blocks.push_back(pool.allocate());
    content[0] = i;
    pool.insert(blocks.back(), BlockPool::kRoot, content);
  }
  for (int32_t block : {blocks[1], blocks[0], blocks[2]}) pool.release(block);
  content[0] = 1;
  pool.retain(pool.find(BlockPool::kRoot, content));  // used again: now the youngest
  pool.release(blocks[1]);
  CHECK(pool.allocate() == 3);
  CHECK(pool.allocate() == blocks[0]);
  CHECK(pool.allocate() == blocks[2]);
  CHECK(pool.find(BlockPool::kRoot, content) == blocks[1]);
  CHECK(pool.allocate() == blocks[1]);
  CHECK(pool.find(BlockPool::kRoot, content) == -1);
  CHECK(pool.allocate() == -1);
}

TEST_CASE("a content that was forgotten and cached anew is another entry") {
  BlockPool pool(1, 1);
  const std::vector<int32_t> a = {7}, b = {8};
  const auto first = pool.insert(pool.allocate(), BlockPool::kRoot, a);
  pool.release(0);
  pool.insert(pool.allocate(), BlockPool::kRoot, b);
  pool.release(0);
  CHECK(pool.insert(pool.allocate(), BlockPool::kRoot, a) != first);
}

}  // namespace sluice
