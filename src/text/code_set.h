// SPDX-License-Identifier: Apache-2.0
// Sets of code points as Oniguruma's properties name them, so that a class means the same in both matchers.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

void start_oniguruma();  // once per process, before any use of the library

class CodeSet {
 public:
  using Range = std::pair<char32_t, char32_t>;  // first and last code point

  CodeSet() = default;  // empty
  explicit CodeSet(char32_t code) : ranges_{{code, code}} {}
  // "L", "Lu", "space", ...; nothing for a name that the engine does not know.
  static std::optional<CodeSet> property(std::string_view name);

  void add(char32_t first, char32_t last);
  void add(const CodeSet& other);
  CodeSet complement() const;
  bool meets(const CodeSet& other) const;  // any code point in common
  bool contains(char32_t code) const;
  const std::vector<Range>& ranges() const { return ranges_; }  // ascending, apart from one another

 private:
  void tidy();
  std::vector<Range> ranges_;
};

// For each code point the sets (up to 32) that hold it, one bit each.
class CodeTable {
 public:
  explicit CodeTable(const std::vector<CodeSet>& sets);
  uint32_t operator[](char32_t code) const { return blocks_[index_[code >> 8]][code & 0xFF]; }
  uint32_t ascii(uint8_t byte) const { return blocks_[0][byte]; }  // the first block is that of U+0000 to U+00FF

 private:
  struct Block {
    uint32_t bits[256];
    uint32_t operator[](size_t i) const { return bits[i]; }
  };
  std::vector<Block> blocks_;
  std::vector<uint16_t> index_;  // by code point / 256
};

}  // namespace sluice
