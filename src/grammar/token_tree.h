// SPDX-License-Identifier: Apache-2.0
// Tokens as a prefix tree, for walking them beside an automaton.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::grammar {

// In preorder: the children of a node follow it, and `end` is the node after the last of them.
struct TokenTree {
  struct Node {
    uint8_t byte;
    uint16_t depth;        // bytes before this one
    uint32_t end;          // skip to here when no token continues this way
    uint32_t first_token;  // into `tokens`
    uint32_t n_tokens;     // spelled exactly so: several ids may share one spelling
  };
  std::vector<Node> nodes;
  std::vector<int32_t> tokens;
  uint32_t depth = 0;  // bytes of the longest token

  TokenTree() = default;
  // `sorted`: ids in the order of their texts, none of which is empty.
  TokenTree(const std::vector<std::string>& texts, const std::vector<int32_t>& sorted);
};

}  // namespace sluice::grammar
