// SPDX-License-Identifier: Apache-2.0
// A matcher for the patterns that pre-tokenizers use: alternatives of classes, greedy repeats, optional groups and
// (?!class), with the meaning Oniguruma gives them. Several times faster than the engine; immutable after compile().
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "text/code_set.h"

namespace sluice {

class Scanner {
 public:
  // Nothing for a pattern with anything else in it, or one that matches the empty text: the engine runs those.
  static std::optional<Scanner> compile(std::string_view pattern);

  // The first match at or after `from`. False when there is none. Throws RequestError when backtracking exceeds
  // kMaxSteps. The text must be UTF-8.
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end) const;

  static constexpr int64_t kMaxSteps = 10'000'000;  // per search, as the engine's limit

  struct Op {
    enum class Kind : uint8_t { kSet, kRepeat, kSplit, kJump, kNotAhead, kAccept };
    Kind kind;
    bool keep = false;  // kRepeat: giving characters back cannot help
    uint32_t set = 0;   // one bit of the table
    uint32_t min = 1, max = 1;
    uint32_t first = 0, second = 0;  // kSplit: tried in this order; kJump: first
  };

 private:
  struct Run;
  Scanner(const std::vector<CodeSet>& sets, std::vector<Op> ops, const std::vector<uint32_t>& entries);
  bool matches_empty(size_t op) const;
  CodeSet start_of(const std::vector<CodeSet>& sets, size_t op, bool& certain) const;

  CodeTable table_;
  std::vector<Op> ops_;
  std::vector<uint32_t> entries_;  // of the alternatives, in order
  uint32_t possible_[256] = {};    // by first byte: the alternatives that may match, one bit each
};

}  // namespace sluice
