// SPDX-License-Identifier: Apache-2.0
#include "sample/history.h"

#include <algorithm>

namespace sluice {

void TokenHistory::reset(int64_t vocab) {
  cells_.assign(static_cast<size_t>(vocab), 0);
  ids_.clear();
}

void TokenHistory::add_prompt(std::span<const int32_t> ids) {
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab()) cells_[static_cast<size_t>(id)] |= kPrompt;
  }
}

void TokenHistory::add_output(int32_t id) {
  ids_.push_back(id);
  if (id < 0 || id >= vocab()) return;
  uint16_t& cell = cells_[static_cast<size_t>(id)];
  if ((cell & kCount) != kCount) ++cell;
}

}  // namespace sluice
