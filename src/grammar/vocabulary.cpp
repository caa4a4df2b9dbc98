// SPDX-License-Identifier: Apache-2.0
#include "grammar/vocabulary.h"

#include <algorithm>

namespace sluice::grammar {
namespace {

constexpr size_t kLongest = 1024;  // bytes; a longer token never comes
constexpr size_t kTables = 32;

}  // namespace

Vocabulary::Vocabulary(std::vector<std::string> texts, std::vector<int32_t> ends)
    : texts_(std::move(texts)), ends_(std::move(ends)) {
  std::erase_if(ends_, [&](int32_t id) { return id < 0 || static_cast<size_t>(id) >= texts_.size(); });
  for (const int32_t id : ends_) texts_[static_cast<size_t>(id)].clear();
  for (size_t i = 0; i < texts_.size(); ++i) {
    if (texts_[i].empty() || texts_[i].size() > kLongest) continue;
    sorted_.push_back(static_cast<int32_t>(i));
    if (texts_[i].size() == 1) spelled_.set(static_cast<uint8_t>(texts_[i][0]));
  }
  std::ranges::sort(sorted_, [&](int32_t a, int32_t b) {
    const int order = texts_[static_cast<size_t>(a)].compare(texts_[static_cast<size_t>(b)]);
    return order != 0 ? order < 0 : a < b;
  });
  all_ = TokenTree(texts_, sorted_);
}

std::shared_ptr<const CharTable> Vocabulary::chars(const std::vector<CodeRange>& ranges) const {
  std::lock_guard lock(mutex_);
  const auto known = std::ranges::find_if(tables_, [&](const auto& entry) { return entry.first == ranges; });
  if (known != tables_.end()) {
    tables_.splice(tables_.begin(), tables_, known);
  } else {
    tables_.emplace_front(ranges, std::make_shared<CharTable>(ranges, texts_, sorted_, spelled_));
    if (tables_.size() > kTables) tables_.pop_back();
  }
  return tables_.front().second;
}

bool Vocabulary::is_end(int32_t id) const { return std::ranges::find(ends_, id) != ends_.end(); }

}  // namespace sluice::grammar
