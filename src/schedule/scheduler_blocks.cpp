// SPDX-License-Identifier: Apache-2.0
// The scheduler's dealings with blocks: reserving, preempting for them, windows, the prefix cache.
#include <algorithm>

#include "base/error.h"
#include "schedule/scheduler.h"

namespace sluice {

bool Scheduler::fits(const Sequence& s, int64_t n_tokens) const {
  for (size_t g = 0; g < pools_.size(); ++g)
    if (needed(s, g, n_tokens) - static_cast<int64_t>(s.tables[g].blocks.size()) > pools_[g].available()) return false;
  return true;
}

// Blocks for the first n_tokens positions of `s`, or false: then it sits this step out.
bool Scheduler::reserve(Sequence& s, int64_t n_tokens, Step& step) {
  if (needed(n_tokens) <= static_cast<int64_t>(s.tables[0].blocks.size())) return true;
  if (blocked_) return false;
  while (!fits(s, n_tokens)) {
    if (!leaving_.empty() || !held_.empty()) {  // blocks come back when a step retires
      blocked_ = true;
      return false;
    }
    Sequence& youngest = *running_.back();
    check(running_.size() > 1 || !copies_.empty(), "the blocks do not hold one sequence");
    preempt(youngest);
    admitting_ = false;  // what was just given up is for those that run
    if (s.state != Sequence::State::kRunning) return false;
  }
  for (size_t g = 0; g < pools_.size(); ++g) {
    std::vector<int32_t>& blocks = s.tables[g].blocks;
    while (static_cast<int64_t>(blocks.size()) < needed(s, g, n_tokens)) {
      step.tables.push_back(
          {s.slot, static_cast<int32_t>(g), static_cast<int32_t>(blocks.size()), pools_[g].allocate()});
      blocks.push_back(step.tables.back().block);
    }
  }
  return true;
}

// Gives back blocks that no row from n_computed on can see.
void Scheduler::leave_window(Sequence& s) {
  for (size_t g = 0; g < pools_.size(); ++g) {
    const int64_t window = options_.groups[g].window;
    if (window == 0) continue;
    Sequence::Table& table = s.tables[g];
    const int64_t first_key = s.n_computed - window + 1;
    while ((table.n_left + 1) * options_.block_size <= first_key) {
      int32_t& block = table.blocks[static_cast<size_t>(table.n_left++)];
      if (s.last_step > retired_) {
        held_.push_back({static_cast<int32_t>(g), block, s.last_step});
      } else {
        pools_[g].release(block);
      }
      block = -1;
    }
  }
}

// Takes references to the longest cached prefix; returns its blocks. At least one token is left to compute.
int32_t Scheduler::take_hits(Sequence& s) {
  const auto size = static_cast<size_t>(options_.block_size);
  const size_t most = (s.tokens.size() - 1) / size;
  size_t hits = 0;
  for (; hits < most; ++hits) {
    const std::span<const int32_t> tokens(s.tokens.data() + hits * size, size);
    bool all = true;
    for (size_t g = 0; g < pools_.size() && all; ++g) all = pools_[g].find(s.tables[g].last_cached, tokens) >= 0;
    if (!all) break;
    for (size_t g = 0; g < pools_.size(); ++g) {
      Sequence::Table& table = s.tables[g];
      const int32_t block = pools_[g].find(table.last_cached, tokens);
      pools_[g].retain(block);
      table.blocks.push_back(block);
      table.last_cached = pools_[g].entry(block);
      ++table.n_cached;
    }
  }
  return static_cast<int32_t>(hits);
}

// Blocks of `from` for `child`. Full ones are shared; a last one that is `partial` is copied after `step`, or the
// result is false: there is no block for it.
bool Scheduler::inherit(Sequence& child, const std::vector<Sequence::Table>& from, bool partial, uint64_t step) {
  for (size_t g = 0; g < pools_.size(); ++g)
    if (partial && !options_.groups[g].fixed && pools_[g].available() == 0) return false;
  for (size_t g = 0; g < pools_.size(); ++g) {
    Sequence::Table& table = child.tables[g];
    table = from[g];
    for (size_t i = 0; i < table.blocks.size(); ++i) {
      int32_t& block = table.blocks[i];
      if (block < 0) continue;
      pools_[g].retain(block);
      if (!partial || options_.groups[g].fixed || i + 1 < table.blocks.size()) continue;
      const int32_t own = pools_[g].allocate();
      pools_[g].retain(own);  // the copy's; its reference to `block` is the one just taken
      copies_.push_back({{static_cast<int32_t>(g), block, own}, step});
      block = own;
    }
  }
  return true;
}

// The last block first, so that the start of a prompt stays in the cache longest.
void Scheduler::drop_blocks(std::vector<Sequence::Table>& tables) {
  for (size_t g = 0; g < pools_.size(); ++g) {
    Sequence::Table& table = tables[g];
    for (auto block = table.blocks.rbegin(); block != table.blocks.rend(); ++block)
      if (*block >= 0) pools_[g].release(*block);
    table.blocks.clear();
    table.n_left = table.n_cached = 0;
    table.last_cached = BlockPool::kRoot;
  }
}

// Full blocks of known tokens can be found from the next step on: steps run in order.
void Scheduler::enter_cache(Sequence& s) {
  if (!caching_ || (varies(s.length) && !options_.recomputes)) return;
  const auto size = static_cast<size_t>(options_.block_size);
  const size_t full = std::min(s.tokens.size(), static_cast<size_t>(s.n_computed)) / size;
  for (size_t g = 0; g < pools_.size(); ++g) {
    Sequence::Table& table = s.tables[g];
    // A block may leave a window of one or two tokens before all its own are known; what follows is not found then.
    for (auto i = static_cast<size_t>(table.n_cached); i < full && table.blocks[i] >= 0; ++i, ++table.n_cached)
      table.last_cached = pools_[g].insert(table.blocks[i], table.last_cached, {s.tokens.data() + i * size, size});
  }
}

// Copies of earlier steps' forks; their references last until this step has retired.
void Scheduler::emit_copies(Step& step) {
  std::erase_if(copies_, [&](const PendingCopy& pending) {
    if (pending.step == step.id) return false;
    step.copies.push_back(pending.copy);
    held_.push_back({pending.copy.group, pending.copy.from, step.id});
    held_.push_back({pending.copy.group, pending.copy.to, step.id});
    return true;
  });
}

// Drops copies whose choice is gone.
void Scheduler::drop_idle_copies() {
  std::erase_if(copies_, [&](const PendingCopy& pending) {
    BlockPool& pool = pools_[static_cast<size_t>(pending.copy.group)];
    if (pool.refs(pending.copy.to) > 1) return false;
    pool.release(pending.copy.from);
    pool.release(pending.copy.to);
    return true;
  });
}

}  // namespace sluice
