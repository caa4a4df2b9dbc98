// SPDX-License-Identifier: Apache-2.0
#include "schedule/block_pool.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace sluice {

BlockPool::BlockPool(int64_t blocks, int64_t block_size) : block_size_(block_size) {
  check(blocks > 0 && blocks <= INT32_MAX && block_size > 0, "a block pool needs blocks");
  const auto n = static_cast<size_t>(blocks);
  refs_.assign(n, 0);
  cells_.resize(n);
  tokens_.resize(n * static_cast<size_t>(block_size));
  buckets_.assign(std::bit_ceil(2 * n), -1);
  free_.resize(n);
  for (size_t i = 0; i < n; ++i) free_[i] = static_cast<int32_t>(n - 1 - i);
}

int32_t BlockPool::allocate() {
  if (free_.empty()) {
    if (oldest_ < 0) return -1;
    const int32_t block = oldest_;
    unlink_idle(block);
    forget(block);
    free_.push_back(block);
  }
  const int32_t block = free_.back();
  free_.pop_back();
  refs_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockPool::retain(int32_t block) {
  auto& refs = refs_[static_cast<size_t>(block)];
  if (refs == 0) {
    check(cells_[static_cast<size_t>(block)].entry != kRoot, "a free block was retained");
    unlink_idle(block);
  }
  ++refs;
}

void BlockPool::release(int32_t block) {
  auto& refs = refs_[static_cast<size_t>(block)];
  check(refs > 0, "a block was released twice");
  if (--refs > 0) return;
  Cell& cell = cells_[static_cast<size_t>(block)];
  if (cell.entry == kRoot) {
    free_.push_back(block);
    return;
  }
  cell.older = newest_;
  cell.newer = -1;
  (newest_ >= 0 ? cells_[static_cast<size_t>(newest_)].newer : oldest_) = block;
  newest_ = block;
  ++n_idle_;
}

int32_t BlockPool::find(Entry before, std::span<const int32_t> wanted) const {
  for (int32_t b = buckets_[bucket(before, wanted)]; b >= 0; b = cells_[static_cast<size_t>(b)].next_in_bucket)
    if (cells_[static_cast<size_t>(b)].before == before && std::ranges::equal(tokens(b), wanted)) return b;
  return -1;
}

BlockPool::Entry BlockPool::insert(int32_t block, Entry before, std::span<const int32_t> content) {
  if (const int32_t other = find(before, content); other >= 0) return entry(other);
  Cell& cell = cells_[static_cast<size_t>(block)];
  check(cell.entry == kRoot && refs(block) > 0, "only a full block in use enters the prefix cache, once");
  std::ranges::copy(content, tokens_.begin() + block * block_size_);
  int32_t& first = buckets_[bucket(before, content)];
  cell.entry = ++last_entry_;
  cell.before = before;
  cell.next_in_bucket = first;
  first = block;
  return cell.entry;
}

size_t BlockPool::bucket(Entry before, std::span<const int32_t> content) const {
  uint64_t h = before * 0x9e3779b97f4a7c15u + 1;
  for (int32_t token : content) {
    h = (h ^ static_cast<uint32_t>(token)) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
  }
  return static_cast<size_t>(h) & (buckets_.size() - 1);
}

std::span<const int32_t> BlockPool::tokens(int32_t block) const {
  return {tokens_.data() + block * block_size_, static_cast<size_t>(block_size_)};
}

void BlockPool::forget(int32_t block) {
  Cell& cell = cells_[static_cast<size_t>(block)];
  int32_t* link = &buckets_[bucket(cell.before, tokens(block))];
  while (*link != block) link = &cells_[static_cast<size_t>(*link)].next_in_bucket;
  *link = cell.next_in_bucket;
  cell = {};
}

void BlockPool::unlink_idle(int32_t block) {
  Cell& cell = cells_[static_cast<size_t>(block)];
  (cell.older >= 0 ? cells_[static_cast<size_t>(cell.older)].newer : oldest_) = cell.newer;
  (cell.newer >= 0 ? cells_[static_cast<size_t>(cell.newer)].older : newest_) = cell.older;
  cell.older = cell.newer = -1;
  --n_idle_;
}

}  // namespace sluice
