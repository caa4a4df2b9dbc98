// SPDX-License-Identifier: Apache-2.0
#include "text/code_set.h"

#include <oniguruma.h>

#include <algorithm>
#include <cstring>
#include <mutex>

namespace sluice {
namespace {
constexpr char32_t kLast = 0x10FFFF;
}  // namespace

void start_oniguruma() {
  static std::once_flag once;
  std::call_once(once, [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
  });
}

std::optional<CodeSet> CodeSet::property(std::string_view name) {
  start_oniguruma();
  const auto* begin = reinterpret_cast<const OnigUChar*>(name.data());
  auto* from = const_cast<OnigUChar*>(begin);  // the engine's signature; it only reads
  const int type = ONIGENC_PROPERTY_NAME_TO_CTYPE(ONIG_ENCODING_UTF8, from, from + name.size());
  if (type < 0) return std::nullopt;
  OnigCodePoint single_bytes = 0;
  const OnigCodePoint* ranges = nullptr;
  if (ONIGENC_GET_CTYPE_CODE_RANGE(ONIG_ENCODING_UTF8, static_cast<OnigCtype>(type), &single_bytes, &ranges) != 0)
    return std::nullopt;
  CodeSet set;
  for (OnigCodePoint i = 0; i < ranges[0]; ++i)
    set.ranges_.emplace_back(static_cast<char32_t>(ranges[1 + 2 * i]),
                             std::min(kLast, static_cast<char32_t>(ranges[2 + 2 * i])));
  set.tidy();
  return set;
}

void CodeSet::tidy() {
  std::sort(ranges_.begin(), ranges_.end());
  size_t n = 0;
  for (const Range& range : ranges_) {
    if (n > 0 && range.first <= ranges_[n - 1].second + 1) {
      ranges_[n - 1].second = std::max(ranges_[n - 1].second, range.second);
    } else {
      ranges_[n++] = range;
    }
  }
  ranges_.resize(n);
}

void CodeSet::add(char32_t first, char32_t last) {
  ranges_.emplace_back(first, last);
  tidy();
}

void CodeSet::add(const CodeSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  tidy();
}

CodeSet CodeSet::complement() const {
  CodeSet out;
  char32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) out.ranges_.emplace_back(next, range.first - 1);
    next = range.second + 1;
  }
  if (next <= kLast) out.ranges_.emplace_back(next, kLast);
  return out;
}

bool CodeSet::meets(const CodeSet& other) const {
  for (size_t i = 0, k = 0; i < ranges_.size() && k < other.ranges_.size();) {
    if (ranges_[i].second < other.ranges_[k].first) {
      ++i;
    } else if (other.ranges_[k].second < ranges_[i].first) {
      ++k;
    } else {
      return true;
    }
  }
  return false;
}

bool CodeSet::contains(char32_t code) const {
  const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), code,
                                      [](char32_t c, const Range& range) { return c < range.first; });
  return after != ranges_.begin() && code <= std::prev(after)->second;
}

CodeTable::CodeTable(const std::vector<CodeSet>& sets) {
  std::vector<size_t> at(sets.size());
  for (char32_t base = 0; base <= kLast; base += 256) {
    Block block{};
    for (size_t s = 0; s < sets.size(); ++s) {
      const auto& ranges = sets[s].ranges();
      while (at[s] < ranges.size() && ranges[at[s]].second < base) ++at[s];
      for (size_t r = at[s]; r < ranges.size() && ranges[r].first < base + 256; ++r) {
        const char32_t first = std::max(ranges[r].first, base), last = std::min<char32_t>(ranges[r].second, base + 255);
        for (char32_t code = first; code <= last; ++code) block.bits[code - base] |= 1u << s;
      }
    }
    // Equal blocks are mostly neighbours: planes of one category.
    size_t found = blocks_.size();
    for (size_t back = 0; back < 4 && back < blocks_.size(); ++back) {
      if (std::memcmp(&blocks_[blocks_.size() - 1 - back], &block, sizeof block) == 0)
        found = blocks_.size() - 1 - back;
    }
    if (found == blocks_.size()) blocks_.push_back(block);
    index_.push_back(static_cast<uint16_t>(found));
  }
}

}  // namespace sluice
