// SPDX-License-Identifier: Apache-2.0
// Which tokens a sequence has seen. Owned by a sampling slot, allocated when a sequence first needs it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

class TokenHistory {
 public:
  TokenHistory() = default;
  explicit TokenHistory(int64_t vocab) : cells_(static_cast<size_t>(vocab)) {}

  void reset(int64_t vocab);                      // forgets everything; allocates only when vocab grows
  void add_prompt(std::span<const int32_t> ids);  // ids outside [0, vocab) count only in ids()
  void add_output(int32_t id);                    // counts saturate at 32767
  bool in_prompt(int32_t id) const { return (cells_[static_cast<size_t>(id)] & kPrompt) != 0; }
  int32_t output_count(int32_t id) const { return cells_[static_cast<size_t>(id)] & kCount; }
  std::span<const int32_t> ids() const { return ids_; }  // prompt and output, in order
  int64_t vocab() const { return static_cast<int64_t>(cells_.size()); }

  static constexpr uint16_t kPrompt = 0x8000, kCount = 0x7fff;
  std::span<const uint16_t> cells() const { return cells_; }  // [vocab]: kPrompt bit, then the output count

 private:
  std::vector<uint16_t> cells_;
  std::vector<int32_t> ids_;
};

}  // namespace sluice
