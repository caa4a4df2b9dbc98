// SPDX-License-Identifier: Apache-2.0
// The blocks of one cache group: ids and reference counts, no memory. Full blocks can be kept as a prefix cache: an
// entry is (entry of the block before, tokens), compared in full, so that two contents never meet. Entries nobody
// refers to stay until their block is needed, the least recently used first. All memory is taken at construction.
// Owned by the Scheduler.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

class BlockPool {
 public:
  using Entry = uint64_t;                          // names a cached content for as long as it is cached; never reused
  static constexpr Entry kRoot = 0;                // before the first block
  static constexpr Entry kOtherRoot = UINT64_MAX;  // of contents computed in another way, which never meet the rest

  BlockPool(int64_t blocks, int64_t block_size);

  int64_t blocks() const { return static_cast<int64_t>(refs_.size()); }
  int64_t available() const { return static_cast<int64_t>(free_.size()) + n_idle_; }
  int32_t refs(int32_t block) const { return refs_[static_cast<size_t>(block)]; }

  // One reference for the caller, or -1 when none is available. Forgets the least recently used entry if it must.
  int32_t allocate();
  void retain(int32_t block);
  void release(int32_t block);

  // The block that holds `tokens` (block_size of them) after `before`, or -1. Counts are unchanged.
  int32_t find(Entry before, std::span<const int32_t> tokens) const;
  Entry entry(int32_t block) const { return cells_[static_cast<size_t>(block)].entry; }
  // From now on `block` (referred to, full) can be found. Returns the entry of this content, which is another block's
  // when that one was first.
  Entry insert(int32_t block, Entry before, std::span<const int32_t> tokens);

 private:
  struct Cell {
    Entry entry = 0;  // 0: not cached
    Entry before = 0;
    int32_t next_in_bucket = -1;
    int32_t older = -1, newer = -1;  // list of idle cached blocks
  };
  size_t bucket(Entry before, std::span<const int32_t> tokens) const;
  std::span<const int32_t> tokens(int32_t block) const;
  void forget(int32_t block);
  void unlink_idle(int32_t block);

  int64_t block_size_;
  std::vector<int32_t> refs_;
  std::vector<int32_t> free_;
  std::vector<Cell> cells_;
  std::vector<int32_t> tokens_;   // [blocks, block_size] of cached blocks
  std::vector<int32_t> buckets_;  // first block of a hash chain, -1 for none; a power of two of them
  int32_t oldest_ = -1, newest_ = -1;
  int64_t n_idle_ = 0;
  Entry last_entry_ = kRoot;
};

}  // namespace sluice
