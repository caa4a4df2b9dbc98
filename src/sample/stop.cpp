// SPDX-License-Identifier: Apache-2.0
#include "sample/stop.h"

#include <algorithm>

namespace sluice {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop) : include_stop_(include_stop) {
  patterns_.reserve(stops.size());
  for (std::string& stop : stops) {
    Pattern pattern{std::move(stop), {}, 0};
    pattern.failure.assign(pattern.text.size(), 0);
    for (size_t i = 1; i < pattern.text.size(); ++i) {
      uint32_t k = pattern.failure[i - 1];
      while (k > 0 && pattern.text[i] != pattern.text[k]) k = pattern.failure[k - 1];
      pattern.failure[i] = pattern.text[i] == pattern.text[k] ? k + 1 : 0;
    }
    patterns_.push_back(std::move(pattern));
  }
}

bool StopMatcher::feed(std::string_view text, std::string& out) {
  if (stopped()) return true;
  uint32_t partial = 0;  // longest prefix of a stop string that ends the text
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    size_t longest = 0;
    partial = 0;
    for (size_t p = 0; p < patterns_.size(); ++p) {
      Pattern& pattern = patterns_[p];
      if (pattern.text.empty()) continue;
      while (pattern.state > 0 && pattern.text[pattern.state] != c) pattern.state = pattern.failure[pattern.state - 1];
      if (pattern.text[pattern.state] == c) ++pattern.state;
      partial = std::max(partial, pattern.state);
      if (pattern.state == pattern.text.size() && pattern.text.size() > longest) {
        longest = pattern.text.size();
        matched_ = static_cast<int>(p);
      }
    }
    if (matched_ < 0) continue;
    held_.append(text.substr(0, i + 1));
    out.append(held_, 0, held_.size() - (include_stop_ ? 0 : longest));
    held_.clear();
    position_ = consumed_ + i + 1 - longest;
    consumed_ += text.size();
    return true;
  }
  if (text.empty()) return false;
  consumed_ += text.size();
  if (partial <= text.size()) {
    out += held_;
    out += text.substr(0, text.size() - partial);
    held_.assign(text.substr(text.size() - partial));
  } else {
    held_ += text;
    out.append(held_, 0, held_.size() - partial);
    held_.erase(0, held_.size() - partial);
  }
  return false;
}

void StopMatcher::finish(std::string& out) {
  out += held_;
  held_.clear();
}

}  // namespace sluice
