// SPDX-License-Identifier: Apache-2.0
// Ids of words met lately, so that a repeated word costs a lookup. Of fixed size; not shared between threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace sluice {

class WordCache {
 public:
  WordCache();
  // Appends the word's ids to `out`; false when it is not known.
  bool find(std::string_view word, std::vector<int32_t>& out);
  // Keeps the ids of the word that find() has just missed, in place of another, unless either is too long.
  void keep(std::string_view word, std::span<const int32_t> ids);

 private:
  static constexpr size_t kSlots = 1 << 14, kKey = 30, kIds = 8;
  struct alignas(64) Slot {
    uint8_t size = 0;  // of the key in bytes; 0: empty
    uint8_t count = 0;
    char key[kKey] = {};
    int32_t ids[kIds] = {};
  };
  std::unique_ptr<Slot[]> slots_;
  size_t last_ = 0;  // slot of the word that was missed
};

}  // namespace sluice
