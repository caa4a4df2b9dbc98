// SPDX-License-Identifier: Apache-2.0
#include "text/word_cache.h"

#include <algorithm>
#include <cstring>

namespace sluice {

WordCache::WordCache() : slots_(std::make_unique<Slot[]>(kSlots)) {}

bool WordCache::find(std::string_view word, std::vector<int32_t>& out) {
  if (word.empty() || word.size() > kKey) return false;
  uint64_t parts[4] = {};
  std::memcpy(parts, word.data(), word.size());
  uint64_t hash = word.size();
  for (const uint64_t part : parts) {
    hash = (hash ^ part) * 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 32;
  }
  last_ = hash % kSlots;
  const Slot& slot = slots_[last_];
  if (slot.size != word.size() || std::memcmp(slot.key, parts, kKey) != 0) return false;
  out.insert(out.end(), slot.ids, slot.ids + slot.count);
  return true;
}

void WordCache::keep(std::string_view word, std::span<const int32_t> ids) {
  if (word.empty() || word.size() > kKey || ids.size() > kIds) return;
  Slot& slot = slots_[last_];
  slot.size = static_cast<uint8_t>(word.size());
  slot.count = static_cast<uint8_t>(ids.size());
  std::memset(slot.key, 0, kKey);
  std::memcpy(slot.key, word.data(), word.size());
  std::copy(ids.begin(), ids.end(), slot.ids);
}

}  // namespace sluice
