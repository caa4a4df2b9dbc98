// SPDX-License-Identifier: Apache-2.0
// Ids of words met lately, so that a repeated word costs a lookup. Grows with the words it meets, up to 1 MiB; not
// shared between threads.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace sluice {

class WordCache {
 public:
  // Appends the word's ids to `out`; false when it is not known.
  bool find(std::string_view word, std::vector<int32_t>& out);
  // Keeps the ids of the word that find() has just missed, in place of another, unless either is too long.
  void keep(std::string_view word, std::span<const int32_t> ids);

 private:
  static constexpr size_t kFewest = 1 << 8, kMost = 1 << 14;  // slots
  static constexpr size_t kKey = 30, kIds = 8;
  struct alignas(64) Slot {
    uint8_t size = 0;  // of the key in bytes; 0: empty
    uint8_t count = 0;
    char key[kKey] = {};
    int32_t ids[kIds] = {};
  };
  static uint64_t hash_of(const char* key, size_t size);  // of kKey bytes
  void grow();
  std::vector<Slot> slots_;  // a power of two of them, or none
  size_t used_ = 0;
  uint64_t missed_ = 0;  // hash of the word that was missed
};

}  // namespace sluice
