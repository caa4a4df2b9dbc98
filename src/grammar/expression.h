// SPDX-License-Identifier: Apache-2.0
// Expressions over bytes: what every kind of grammar is rewritten into before it becomes an automaton. An Expr is an
// index into the Builder that made it; sharing one is free.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice::grammar {

using Expr = uint32_t;
using CodeRange = std::pair<uint32_t, uint32_t>;  // code points, both ends included
inline constexpr uint32_t kNoMax = UINT32_MAX;

class Builder {
 public:
  enum class Kind : uint8_t { kBytes, kSeq, kAlt, kRepeat, kRule };
  struct Node {
    Kind kind;
    std::bitset<256> bytes;   // kBytes
    std::vector<Expr> parts;  // kSeq, kAlt; kRepeat: one
    uint32_t min = 0, max = 0;
    uint32_t rule = 0;        // kRule
    uint32_t char_class = 0;  // 1 + index into char_classes(): one pass takes any of these characters
  };

  Expr empty() { return seq({}); }
  Expr never() { return alt({}); }
  Expr bytes(const std::bitset<256>& set);
  Expr byte_range(uint8_t low, uint8_t high);
  Expr literal(std::string_view text);
  Expr any_of(const std::vector<std::string>& texts);  // shares common beginnings
  Expr seq(std::vector<Expr> parts);
  Expr alt(std::vector<Expr> parts);
  Expr repeat(Expr part, uint32_t min, uint32_t max);
  Expr optional(Expr part) { return repeat(part, 0, 1); }
  // Any one of the code points, as UTF-8; surrogates are left out. `json`: as characters inside a JSON string, with
  // escapes for quote, backslash and control characters.
  Expr chars(std::vector<CodeRange> ranges, bool json);
  // `wide` takes every character that `narrow`, of chars(), takes as itself, and more.
  Expr widened(Expr wide, Expr narrow);

  uint32_t new_rule(std::string name);
  void define(uint32_t rule, Expr body) { rules_[rule].body = body; }
  Expr call(uint32_t rule);

  struct Rule {
    std::string name;
    Expr body = 0;
  };
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<Rule>& rules() const { return rules_; }
  const std::vector<std::vector<CodeRange>>& char_classes() const { return char_classes_; }

 private:
  uint32_t char_class(const std::vector<CodeRange>& ranges);
  Expr add(Node node);  // throws RequestError when the grammar is too large
  Expr literals(const std::vector<std::string>& sorted, size_t begin, size_t end, size_t depth);
  std::vector<Node> nodes_;
  std::vector<Rule> rules_;
  std::vector<std::vector<CodeRange>> char_classes_;
};

// Sorted, without overlaps.
std::vector<CodeRange> merged(std::vector<CodeRange> ranges);
std::vector<CodeRange> complement(std::vector<CodeRange> ranges);

}  // namespace sluice::grammar
