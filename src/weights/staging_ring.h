// SPDX-License-Identifier: Apache-2.0
// Places in one block of memory that are given back in about the order in which they were taken.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>

namespace sluice {

class StagingRing {
 public:
  static constexpr size_t kAlignment = 4096;  // of every place, in bytes
  static constexpr size_t rounded(size_t bytes) {
    return bytes == 0 ? kAlignment : (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  explicit StagingRing(size_t bytes) : size_(bytes) {}

  bool has_room(size_t bytes) const { return place(rounded(bytes)).has_value(); }
  // The offset of `bytes` contiguous bytes; nullopt where the ring has no such gap now. An empty ring always has
  // `size`.
  std::optional<size_t> take(size_t bytes);
  void give_back(size_t offset);  // that take() returned

 private:
  struct Place {
    size_t begin, end;
    bool taken;
  };
  std::optional<size_t> place(size_t bytes) const;

  size_t size_;
  std::deque<Place> places_;  // in the order of take(); those given back leave when they are the oldest
};

}  // namespace sluice
