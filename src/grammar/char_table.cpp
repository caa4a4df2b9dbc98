// SPDX-License-Identifier: Apache-2.0
#include "grammar/char_table.h"

#include <algorithm>
#include <map>

namespace sluice::grammar {

namespace {

uint32_t lead_byte(uint32_t code) {
  if (code < 0x80) return code;
  return code < 0x800 ? 0xC0 | code >> 6 : code < 0x10000 ? 0xE0 | code >> 12 : 0xF0 | code >> 18;
}

// The character that begins at `at`, moved behind it; kNoMax where there is none.
uint32_t read_character(const std::string& text, size_t& at) {
  const auto lead = static_cast<uint8_t>(text[at]);
  const size_t n = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (n == 0 || at + n > text.size()) return kNoMax;
  uint32_t code = n == 1 ? lead : lead & (0x7Fu >> n);
  for (size_t k = 1; k < n; ++k) {
    const auto next = static_cast<uint8_t>(text[at + k]);
    const uint8_t low = k > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = k > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (next < low || next > high) return kNoMax;
    code = code << 6 | (next & 63u);
  }
  at += n;
  return code;
}

}  // namespace

CharTable::CharTable(const std::vector<CodeRange>& ranges, const std::vector<std::string>& texts,
                     const std::vector<int32_t>& sorted, const std::bitset<256>& spelled)
    : words_((texts.size() + 31) / 32), masks_((kMasks + 1) * words_) {
  const auto member = [&](uint32_t code) {
    const auto after = std::ranges::upper_bound(ranges, code, {}, &CodeRange::first);
    return code != kNoMax && after != ranges.begin() && code <= std::prev(after)->second;
  };
  std::bitset<128> ascii;
  for (uint32_t code = 0; code < 128; ++code) ascii[code] = member(code);
  for (const CodeRange& r : ranges)
    for (uint32_t b = lead_byte(r.first); b <= lead_byte(r.second); ++b) leads_.set(b);
  // Characters of a token that is whole, else 0 and what ends them.
  const auto characters = [&](const std::string& text, int& end) -> uint32_t {
    uint32_t n = 0;
    end = -1;
    for (size_t at = 0; at < text.size(); ++n) {
      const size_t begin = at;
      const auto byte = static_cast<uint8_t>(text[at]);
      if (byte < 0x80) {
        if (!ascii[byte]) end = byte;
        if (!ascii[byte] || !spelled[byte]) return 0;
        ++at;
        continue;
      }
      const uint32_t code = read_character(text, at);
      if (!member(code)) {
        if (code != kNoMax && !leads_[byte]) end = byte;
        return 0;
      }
      for (size_t k = begin; k < at; ++k)
        if (!spelled[static_cast<uint8_t>(text[k])]) return 0;
    }
    return n;
  };
  std::map<int, std::vector<int32_t>> mixed;
  for (const int32_t id : sorted) {
    const std::string& text = texts[static_cast<size_t>(id)];
    if (!leads_[static_cast<uint8_t>(text[0])]) continue;
    int end = -1;
    const uint32_t n = characters(text, end);
    if (n == 0) {
      mixed[end].push_back(id);
      continue;
    }
    longest_ = std::max(longest_, n);
    if (n > kMasks) long_.push_back({n, id});
    for (uint32_t most = std::min(n, kMasks + 1); most <= kMasks + 1; ++most)
      masks_[(most - 1) * words_ + static_cast<size_t>(id) / 32] |= 1u << (static_cast<uint32_t>(id) % 32);
  }
  for (const auto& [end, ids] : mixed) mixed_.push_back({end, TokenTree(texts, ids)});
  std::ranges::stable_sort(long_, std::ranges::greater{}, &Long::characters);
}

void CharTable::copy(uint32_t most, std::vector<uint32_t>& mask) const {
  const auto from = masks_.begin() + static_cast<std::ptrdiff_t>((std::clamp(most, 1u, kMasks + 1) - 1) * words_);
  mask.assign(from, from + static_cast<std::ptrdiff_t>(words_));
  if (most <= kMasks) return;
  for (const Long& l : long_) {
    if (l.characters <= most) break;
    mask[static_cast<size_t>(l.token) / 32] &= ~(1u << (static_cast<uint32_t>(l.token) % 32));
  }
}

}  // namespace sluice::grammar
