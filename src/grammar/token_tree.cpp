// SPDX-License-Identifier: Apache-2.0
#include "grammar/token_tree.h"

#include <algorithm>

namespace sluice::grammar {

TokenTree::TokenTree(const std::vector<std::string>& texts, const std::vector<int32_t>& sorted) {
  std::vector<uint32_t> path;  // nodes of the last token
  const auto close = [&](size_t length) {
    for (; path.size() > length; path.pop_back()) nodes[path.back()].end = static_cast<uint32_t>(nodes.size());
  };
  const std::string* last = nullptr;
  for (const int32_t id : sorted) {
    const std::string& text = texts[static_cast<size_t>(id)];
    size_t shared = 0;
    while (last != nullptr && shared < last->size() && shared < text.size() && (*last)[shared] == text[shared])
      ++shared;
    close(shared);
    for (size_t i = shared; i < text.size(); ++i) {
      path.push_back(static_cast<uint32_t>(nodes.size()));
      nodes.push_back({static_cast<uint8_t>(text[i]), static_cast<uint16_t>(i), 0, 0, 0});
    }
    Node& node = nodes[path.back()];
    if (node.n_tokens++ == 0) node.first_token = static_cast<uint32_t>(tokens.size());
    tokens.push_back(id);
    depth = std::max(depth, static_cast<uint32_t>(text.size()));
    last = &text;
  }
  close(0);
}

}  // namespace sluice::grammar
