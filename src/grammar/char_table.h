// SPDX-License-Identifier: Apache-2.0
// The tokens of a vocabulary as one set of characters sees them. Where an automaton repeats such a character, the
// tokens that are made of nothing else need no walk: how many characters fit decides. Immutable; shared by threads.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <vector>

#include "grammar/expression.h"
#include "grammar/token_tree.h"

namespace sluice::grammar {

class CharTable {
 public:
  // `ranges`: sorted, without overlaps. `sorted`: ids in the order of their texts. `spelled`: bytes that are tokens by
  // themselves; characters of other bytes are left out, for what they begin might never end.
  CharTable(const std::vector<CodeRange>& ranges, const std::vector<std::string>& texts,
            const std::vector<int32_t>& sorted, const std::bitset<256>& spelled);

  uint32_t longest() const { return longest_; }             // characters of the longest such token
  const std::bitset<256>& leads() const { return leads_; }  // first bytes of the characters
  // Tokens that begin so and are not whole, by the byte that ends their characters; -1: no one byte does.
  struct Mixed {
    int end;
    TokenTree tokens;
  };
  const std::vector<Mixed>& mixed() const { return mixed_; }
  void copy(uint32_t most, std::vector<uint32_t>& mask) const;  // whole tokens of at most `most` characters

 private:
  static constexpr uint32_t kMasks = 16;
  size_t words_;
  uint32_t longest_ = 0;
  std::bitset<256> leads_;
  std::vector<Mixed> mixed_;
  std::vector<uint32_t> masks_;  // [kMasks + 1, words]: of at most 1, 2 ... kMasks characters, of any number
  struct Long {
    uint32_t characters;
    int32_t token;
  };
  std::vector<Long> long_;  // of more than kMasks characters, the longest first
};

}  // namespace sluice::grammar
