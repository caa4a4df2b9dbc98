// SPDX-License-Identifier: Apache-2.0
#include "grammar/regex.h"

#include <fmt/format.h>

#include "base/error.h"

namespace sluice::grammar {
namespace {

using Ranges = std::vector<CodeRange>;

constexpr int kMaxDepth = 100;
constexpr uint32_t kMaxCount = 1000000;

class Parser {
 public:
  Parser(Builder& builder, std::string_view pattern, RegexStyle style) : b_(builder), text_(pattern), style_(style) {}

  Expr run() {
    const Expr all = alternatives(0);
    if (at_ < text_.size()) malformed("an unmatched )");
    return all;
  }

 private:
  [[noreturn]] void malformed(std::string_view what) const {
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("regular expression: {} at byte {} of {}", what, at_, shown()), "grammar");
  }
  [[noreturn]] void unsupported(std::string_view what) const {
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("regular expression: {} at byte {} of {} is not supported", what, at_, shown()),
                       "grammar");
  }
  std::string shown() const { return std::string(text_.substr(0, 80)); }
  bool next_is(std::string_view s) const { return text_.substr(at_).starts_with(s); }
  bool take(std::string_view s) {
    if (!next_is(s)) return false;
    at_ += s.size();
    return true;
  }

  Expr alternatives(int depth) {
    if (depth > kMaxDepth) malformed("groups nested too deep");
    std::vector<Expr> ways{sequence(depth)};
    while (take("|")) ways.push_back(sequence(depth));
    return b_.alt(std::move(ways));
  }

  Expr anything() { return b_.repeat(b_.chars({{0, 0x10FFFF}}, style_.json), 0, kNoMax); }

  Expr sequence(int depth) {
    std::vector<Expr> parts;
    const bool begins = depth == 0 && (take("^") || take("\\A"));
    bool ends = false;
    while (at_ < text_.size() && !next_is("|") && !next_is(")")) {
      if (depth == 0 && (take("$") || take("\\Z") || take("\\z"))) {
        ends = true;
        if (at_ < text_.size() && !next_is("|")) unsupported("$ before the end");
        break;
      }
      parts.push_back(quantified(depth));
    }
    if (depth == 0 && style_.search && !begins) parts.insert(parts.begin(), anything());
    if (depth == 0 && style_.search && !ends) parts.push_back(anything());
    return b_.seq(std::move(parts));
  }

  Expr quantified(int depth) {
    Expr part = atom(depth);
    for (;;) {
      uint32_t min = 0, max = kNoMax;
      if (take("*")) {
      } else if (take("+")) {
        min = 1;
      } else if (take("?")) {
        max = 1;
      } else if (!counts(min, max)) {
        return part;
      }
      if (next_is("+")) unsupported("a possessive quantifier");
      take("?");  // lazy: the same texts match
      part = b_.repeat(part, min, max);
    }
  }

  // {m}, {m,}, {,n} or {m,n}; anything else is a literal brace.
  bool counts(uint32_t& min, uint32_t& max) {
    if (!next_is("{")) return false;
    const size_t begin = at_;
    ++at_;
    const auto number = [&](uint32_t& value) {
      const size_t first = at_;
      uint64_t n = 0;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
        n = n * 10 + static_cast<uint64_t>(text_[at_] - '0');
        if (n > kMaxCount) malformed("a count above 1000000");
      }
      value = static_cast<uint32_t>(n);
      return at_ > first;
    };
    const bool low = number(min);
    bool good = low;
    max = min;
    if (take(",")) {
      const bool high = number(max);
      if (!high) max = kNoMax;
      good = low || high;
    }
    if (!good || !take("}")) {
      at_ = begin;
      return false;
    }
    if (max < min) malformed("a count whose end is before its start");
    return true;
  }

  uint32_t code_point() {
    const auto lead = static_cast<uint8_t>(text_[at_]);
    const int length = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead >= 0x80 && (lead < 0xC2 || lead > 0xF4 || at_ + static_cast<size_t>(length) > text_.size()))
      malformed("a byte that is not UTF-8");
    uint32_t c = length == 1 ? lead : lead & (0x7Fu >> length);
    for (int i = 1; i < length; ++i) c = c << 6 | (static_cast<uint8_t>(text_[at_ + static_cast<size_t>(i)]) & 63);
    at_ += static_cast<size_t>(length);
    return c;
  }

  Expr atom(int depth) {
    if (take("(")) {
      if (take("?:") || take("?P<") || (next_is("?<") && !next_is("?<=") && !next_is("?<!") && take("?<"))) {
        if (text_[at_ - 1] == '<') {
          while (at_ < text_.size() && text_[at_] != '>') ++at_;
          if (!take(">")) malformed("a group name without end");
        }
      } else if (next_is("?")) {
        unsupported(next_is("?=") || next_is("?!") || next_is("?<") ? "look-around" : "a special group");
      }
      const Expr inner = alternatives(depth + 1);
      if (!take(")")) malformed("a group without end");
      return inner;
    }
    if (next_is("*") || next_is("+") || next_is("?")) malformed("a quantifier of nothing");
    if (next_is("^") || next_is("$")) unsupported("an anchor inside");
    if (take(".")) return b_.chars(complement({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}), style_.json);
    if (take("[")) return b_.chars(set(), style_.json);
    if (next_is("\\")) return b_.chars(escape(false), style_.json);
    const uint32_t c = code_point();
    return b_.chars({{c, c}}, style_.json);
  }

  Ranges set() {
    const bool negated = take("^");
    Ranges ranges;
    for (bool first = true; first || !next_is("]"); first = false) {
      if (at_ >= text_.size()) malformed("a character class without end");
      if (next_is("[:")) unsupported("a named character class");
      if (first && next_is("]") && style_.json) break;  // ECMAScript: empty
      const size_t begin = at_;
      Ranges low = next_is("\\") ? escape(true) : one();
      const bool single = low.size() == 1 && low[0].first == low[0].second;
      if (!next_is("-") || text_.substr(at_).starts_with("-]")) {
        ranges.insert(ranges.end(), low.begin(), low.end());
        continue;
      }
      ++at_;
      if (at_ >= text_.size()) malformed("a character class without end");
      const Ranges high = next_is("\\") ? escape(true) : one();
      if (!single || high.size() != 1 || high[0].first != high[0].second || high[0].first < low[0].first) {
        at_ = begin;
        malformed("a range that is none");
      }
      ranges.push_back({low[0].first, high[0].first});
    }
    ++at_;
    return negated ? complement(std::move(ranges)) : merged(std::move(ranges));
  }

  Ranges one() {
    const uint32_t c = code_point();
    return {{c, c}};
  }

  uint32_t hex(size_t digits) {
    uint32_t value = 0;
    for (size_t i = 0; i < digits; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : ' ';
      const int d = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
      if (d < 0) malformed("an escape that needs hexadecimal digits");
      value = value * 16 + static_cast<uint32_t>(d);
    }
    return value;
  }

  Ranges escape(bool in_class) {
    ++at_;
    if (at_ >= text_.size()) malformed("a backslash at the end");
    const uint32_t c = code_point();
    const auto but = [](Ranges ranges) {  // the other ASCII characters
      ranges.push_back({0x80, 0x10FFFF});
      return complement(std::move(ranges));
    };
    Ranges digits{{'0', '9'}}, word{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, space{{9, 13}, {' ', ' '}};
    switch (c) {
      case 'd':
        return digits;
      case 'D':
        return but(digits);
      case 'w':
        return word;
      case 'W':
        return but(word);
      case 's':
        return space;
      case 'S':
        return but({{9, 13}, {28, 32}});
      case 'n':
        return {{'\n', '\n'}};
      case 't':
        return {{'\t', '\t'}};
      case 'r':
        return {{'\r', '\r'}};
      case 'f':
        return {{'\f', '\f'}};
      case 'v':
        return {{'\v', '\v'}};
      case '0':
        return {{0, 0}};
      case 'x': {
        const uint32_t code = hex(2);
        return {{code, code}};
      }
      case 'u': {
        const uint32_t code = hex(4);
        return {{code, code}};
      }
      case 'b':
        if (in_class) return {{8, 8}};
        unsupported("a word border");
      default:
        break;
    }
    if (c >= '1' && c <= '9') unsupported("a back-reference");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
      unsupported(fmt::format("the escape \\{}", static_cast<char>(c)));
    return {{c, c}};
  }

  Builder& b_;
  std::string_view text_;
  RegexStyle style_;
  size_t at_ = 0;
};

}  // namespace

Expr parse_regex(Builder& builder, std::string_view pattern, RegexStyle style) {
  return Parser(builder, pattern, style).run();
}

}  // namespace sluice::grammar
