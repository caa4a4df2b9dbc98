// SPDX-License-Identifier: Apache-2.0
#include "text/word_cache.h"

#include <algorithm>
#include <cstring>

namespace sluice {

uint64_t WordCache::hash_of(const char* key, size_t size) {
  uint64_t parts[4] = {};
  std::memcpy(parts, key, kKey);
  uint64_t hash = size;
  for (const uint64_t part : parts) {
    hash = (hash ^ part) * 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 32;
  }
  return hash;
}

bool WordCache::find(std::string_view word, std::vector<int32_t>& out) {
  if (word.empty() || word.size() > kKey) return false;
  char key[kKey] = {};
  std::memcpy(key, word.data(), word.size());
  missed_ = hash_of(key, word.size());
  if (slots_.empty()) return false;
  const Slot& slot = slots_[missed_ & (slots_.size() - 1)];
  if (slot.size != word.size() || std::memcmp(slot.key, key, kKey) != 0) return false;
  out.insert(out.end(), slot.ids, slot.ids + slot.count);
  return true;
}

void WordCache::keep(std::string_view word, std::span<const int32_t> ids) {
  if (word.empty() || word.size() > kKey || ids.size() > kIds) return;
  if (used_ * 2 >= slots_.size() && slots_.size() < kMost) grow();
  Slot& slot = slots_[missed_ & (slots_.size() - 1)];
  used_ += slot.size == 0;
  slot.size = static_cast<uint8_t>(word.size());
  slot.count = static_cast<uint8_t>(ids.size());
  std::memset(slot.key, 0, kKey);
  std::memcpy(slot.key, word.data(), word.size());
  std::copy(ids.begin(), ids.end(), slot.ids);
}

void WordCache::grow() {
  std::vector<Slot> more(std::max(kFewest, slots_.size() * 4));
  for (const Slot& slot : slots_)
    if (slot.size > 0) more[hash_of(slot.key, slot.size) & (more.size() - 1)] = slot;
  slots_ = std::move(more);
}

}  // namespace sluice
