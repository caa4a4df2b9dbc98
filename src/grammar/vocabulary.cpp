// SPDX-License-Identifier: Apache-2.0
#include "grammar/vocabulary.h"

#include <algorithm>

namespace sluice::grammar {
namespace {

constexpr size_t kLongest = 1024;  // bytes; a longer token never comes

TokenTree tree_of(const std::vector<std::string>& texts, const std::vector<int32_t>& sorted) {
  TokenTree tree;
  std::vector<uint32_t> path;  // nodes of the last token
  const auto close = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) tree.nodes[path.back()].end = static_cast<uint32_t>(tree.nodes.size());
  };
  const std::string* last = nullptr;
  for (const int32_t id : sorted) {
    const std::string& text = texts[static_cast<size_t>(id)];
    size_t shared = 0;
    while (last != nullptr && shared < last->size() && shared < text.size() && (*last)[shared] == text[shared])
      ++shared;
    close(shared);
    for (size_t i = shared; i < text.size(); ++i) {
      path.push_back(static_cast<uint32_t>(tree.nodes.size()));
      tree.nodes.push_back({static_cast<uint8_t>(text[i]), static_cast<uint16_t>(i), 0, 0, 0});
    }
    TokenTree::Node& node = tree.nodes[path.back()];
    if (node.n_tokens++ == 0) node.first_token = static_cast<uint32_t>(tree.tokens.size());
    tree.tokens.push_back(id);
    tree.depth = std::max(tree.depth, static_cast<uint32_t>(text.size()));
    last = &text;
  }
  close(0);
  return tree;
}

// Whole UTF-8 characters, none of them a quote, a backslash or a control character, all of spelled bytes.
bool is_plain(const std::string& text, const std::bitset<256>& spelled) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    if (lead < 0x20 || lead == '"' || lead == '\\') return false;
    const size_t n = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (n == 0 || i + n > text.size()) return false;
    for (size_t k = 1; k < n; ++k) {
      const auto next = static_cast<uint8_t>(text[i + k]);
      const uint8_t low = k > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
      const uint8_t high = k > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
      if (next < low || next > high) return false;
    }
    for (size_t k = 0; k < n; ++k)
      if (!spelled[static_cast<uint8_t>(text[i + k])]) return false;
    i += n;
  }
  return true;
}

}  // namespace

Vocabulary::Vocabulary(std::vector<std::string> texts, std::vector<int32_t> ends)
    : texts_(std::move(texts)), ends_(std::move(ends)), plain_(words()) {
  std::erase_if(ends_, [&](int32_t id) { return id < 0 || static_cast<size_t>(id) >= texts_.size(); });
  for (const int32_t id : ends_) texts_[static_cast<size_t>(id)].clear();
  std::vector<int32_t> ids;
  for (size_t i = 0; i < texts_.size(); ++i) {
    if (texts_[i].empty() || texts_[i].size() > kLongest) continue;
    ids.push_back(static_cast<int32_t>(i));
    if (texts_[i].size() == 1) spelled_.set(static_cast<uint8_t>(texts_[i][0]));
  }
  std::ranges::sort(ids, [&](int32_t a, int32_t b) {
    const int order = texts_[static_cast<size_t>(a)].compare(texts_[static_cast<size_t>(b)]);
    return order != 0 ? order < 0 : a < b;
  });
  all_ = tree_of(texts_, ids);
  std::erase_if(ids, [&](int32_t id) {
    const auto at = static_cast<size_t>(id);
    if (!is_plain(texts_[at], spelled_)) return false;
    plain_[at / 32] |= 1u << (at % 32);
    return true;
  });
  others_ = tree_of(texts_, ids);
}

bool Vocabulary::is_end(int32_t id) const { return std::ranges::find(ends_, id) != ends_.end(); }

}  // namespace sluice::grammar
