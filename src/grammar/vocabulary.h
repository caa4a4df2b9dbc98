// SPDX-License-Identifier: Apache-2.0
// The tokens of a model as byte strings, laid out for walking them beside an automaton. Immutable; shared by threads.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice::grammar {

// A prefix tree in preorder: the children of a node follow it, and `end` is the node after the last of them.
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
};

class Vocabulary {
 public:
  // `texts` by id; an empty one never comes (special tokens). `ends` are the ids that end an answer.
  Vocabulary(std::vector<std::string> texts, std::vector<int32_t> ends);

  size_t size() const { return texts_.size(); }
  size_t words() const { return (texts_.size() + 31) / 32; }  // of a mask
  const std::string& text(int32_t id) const { return texts_[static_cast<size_t>(id)]; }
  const std::vector<int32_t>& ends() const { return ends_; }
  bool is_end(int32_t id) const;
  const std::bitset<256>& spelled() const { return spelled_; }  // bytes that are tokens by themselves

  const TokenTree& all() const { return all_; }
  // Tokens of whole characters that a JSON string holds as they are, as a mask; and the tree of the others.
  const std::vector<uint32_t>& plain() const { return plain_; }
  const TokenTree& others() const { return others_; }

 private:
  std::vector<std::string> texts_;
  std::vector<int32_t> ends_;
  std::bitset<256> spelled_;
  TokenTree all_, others_;
  std::vector<uint32_t> plain_;
};

}  // namespace sluice::grammar
