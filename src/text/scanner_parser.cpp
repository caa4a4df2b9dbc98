// SPDX-License-Identifier: Apache-2.0
#include "text/scanner_parser.h"

#include <algorithm>
#include <string>

#include "text/unicode.h"

namespace sluice {
namespace {

using Op = Scanner::Op;
constexpr size_t kMaxSets = 32, kMaxEntries = 32, kMaxOps = 400;
constexpr uint32_t kMany = ~0u;

struct Outside {};  // thrown where the pattern leaves the subset

class Parser {
 public:
  Parser(std::string_view text, ScannerProgram& program) : text_(text), program_(program) {}

  void run() {
    if (!is_utf8(text_)) throw Outside();
    for (;;) {
      if (program_.entries.size() == kMaxEntries) throw Outside();
      program_.entries.push_back(static_cast<uint32_t>(program_.ops.size()));
      sequence();
      emit({Op::Kind::kAccept});
      if (at_ == text_.size()) return;
      expect('|');
    }
  }

 private:
  bool is(char c) const { return at_ < text_.size() && text_[at_] == c; }
  bool skip(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void expect(char c) {
    if (!is(c)) throw Outside();
    ++at_;
  }
  char32_t take() {
    if (at_ >= text_.size()) throw Outside();
    return next_code(text_, at_);
  }
  size_t emit(Op op) {
    if (program_.ops.size() == kMaxOps) throw Outside();
    program_.ops.push_back(op);
    return program_.ops.size() - 1;
  }
  uint32_t here() const { return static_cast<uint32_t>(program_.ops.size()); }
  uint32_t bit(const CodeSet& set) {
    auto& sets = program_.sets;
    const auto known =
        std::find_if(sets.begin(), sets.end(), [&](const CodeSet& s) { return s.ranges() == set.ranges(); });
    const size_t n = static_cast<size_t>(known - sets.begin());
    if (known == sets.end()) {
      if (n == kMaxSets) throw Outside();
      sets.push_back(set);
    }
    return 1u << n;
  }

  // Up to "|", ")" or the end.
  void sequence() {
    while (at_ < text_.size() && !is('|') && !is(')')) {
      if (skip("(?!")) {
        Op op{Op::Kind::kNotAhead};
        op.set = bit(atom());
        expect(')');
        emit(op);
      } else if (skip("(?i:")) {
        const bool before = std::exchange(fold_, true);
        group();
        fold_ = before;
      } else if (skip("(?:")) {
        group();
      } else if (is('(')) {
        if (text_.substr(at_, 2) == "(?") throw Outside();
        ++at_;
        group();
      } else {
        repeat(atom());
      }
    }
  }

  // After the opening, through ")" and an optional "?": alternatives, each jumping behind the group.
  void group() {
    if (++depth_ > 8) throw Outside();
    const size_t optional = emit({Op::Kind::kJump});  // becomes a split when the group may be left out
    program_.ops[optional].first = here();
    std::vector<size_t> ends;
    for (;;) {
      const size_t split = emit({Op::Kind::kSplit});
      program_.ops[split].first = here();
      sequence();
      ends.push_back(emit({Op::Kind::kJump}));
      program_.ops[split].second = here();
      if (!is('|')) {
        program_.ops[split].kind = Op::Kind::kJump;  // the last one
        break;
      }
      ++at_;
    }
    expect(')');
    for (const size_t end : ends) program_.ops[end].first = here();
    if (skip("?")) {
      Op& op = program_.ops[optional];
      op.kind = Op::Kind::kSplit;
      op.second = here();
    }
    if (is('?') || is('*') || is('+') || is('{')) throw Outside();
    --depth_;
  }

  void repeat(const CodeSet& set) {
    Op op{Op::Kind::kSet};
    op.set = bit(set);
    uint32_t min = 1, max = 1;
    if (skip("?")) {
      min = 0;
    } else if (skip("*")) {
      min = 0;
      max = kMany;
    } else if (skip("+")) {
      max = kMany;
    } else if (skip("{")) {
      min = number();
      max = min;
      if (skip(",")) max = is('}') ? kMany : number();
      expect('}');
      if (max < min || max == 0) throw Outside();
    }
    if (is('?') || is('*') || is('+') || is('{')) throw Outside();  // lazy, possessive or repeated again
    if (min != 1 || max != 1) {
      op.kind = Op::Kind::kRepeat;
      op.min = min;
      op.max = max;
    }
    emit(op);
  }
  uint32_t number() {
    uint32_t value = 0;
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = value * 10 + static_cast<uint32_t>(text_[at_++] - '0');
      if (value > 100000) throw Outside();
    }
    if (at_ == begin) throw Outside();
    return value;
  }

  // One character or class outside brackets.
  CodeSet atom() {
    if (skip("[")) return fold_ ? throw Outside() : brackets();
    if (skip("\\")) return escape();
    const char32_t code = take();
    if (std::u32string_view(U".^$*+?{}()[]|").find(code) != std::u32string_view::npos) throw Outside();
    return letter(code);
  }

  // Under (?i:...) the characters that fold to the same one; pairs that fold together are left to the engine.
  CodeSet letter(char32_t code) {
    CodeSet set(code);
    if (!fold_) return set;
    if (code >= 0x80) throw Outside();
    const char32_t low = code >= 'A' && code <= 'Z' ? code + 32 : code;
    if (low < 'a' || low > 'z') return set;
    if ((last_ == 's' && (low == 's' || low == 't')) || (last_ == 'f' && (low == 'f' || low == 'i' || low == 'l')))
      throw Outside();
    last_ = at_ < text_.size() && (is('|') || is(')')) ? 0 : low;
    set.add(low, low);
    set.add(low - 32, low - 32);
    if (low == 's') set.add(0x17F, 0x17F);
    if (low == 'k') set.add(0x212A, 0x212A);
    return set;
  }

  CodeSet named(std::string_view name, bool negated) {
    const auto set = CodeSet::property(name);
    if (!set) throw Outside();
    return negated ? set->complement() : *set;
  }
  CodeSet escape() {
    if (fold_) throw Outside();
    const char32_t code = take();
    switch (code) {
      case 's':
      case 'S':
        return named("space", code == 'S');
      case 'd':
      case 'D':
        return named("digit", code == 'D');
      case 'w':  // outside brackets the engine counts superscripts and fractions of Latin-1 too, inside it does not
      case 'W':
        throw Outside();
      case 'p':
      case 'P': {
        expect('{');
        const bool caret = skip("^");
        const size_t end = text_.find('}', at_);
        if (end == std::string_view::npos) throw Outside();
        const std::string_view name = text_.substr(at_, end - at_);
        at_ = end + 1;
        return named(name, (code == 'P') != caret);
      }
      case 'r':
        return CodeSet('\r');
      case 'n':
        return CodeSet('\n');
      case 't':
        return CodeSet('\t');
      default:
        if (code >= 0x80 || (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') ||
            (code >= 'a' && code <= 'z'))
          throw Outside();
        return CodeSet(code);
    }
  }

  // After "[", through "]". A set inside a set is a union, as in Oniguruma.
  CodeSet brackets() {
    if (++depth_ > 8) throw Outside();
    const bool negated = skip("^");
    if (is(']') || is(':')) throw Outside();
    CodeSet out;
    while (!skip("]")) {
      if (text_.substr(at_, 2) == "&&") throw Outside();
      if (skip("[")) {
        out.add(brackets());
        continue;
      }
      CodeSet item;
      if (skip("\\")) {
        item = escape();
      } else {
        const char32_t code = take();
        if (code == '-' && !is(']')) throw Outside();
        item = CodeSet(code);
      }
      if (is('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        const CodeSet last = skip("\\") ? escape() : CodeSet(take());
        if (item.ranges().size() != 1 || last.ranges().size() != 1) throw Outside();
        const auto [from, from_end] = item.ranges()[0];
        const auto [to, to_end] = last.ranges()[0];
        if (from != from_end || to != to_end || from > to || to == '[') throw Outside();
        item.add(from, to);
      }
      out.add(item);
    }
    --depth_;
    return negated ? out.complement() : out;
  }

  std::string_view text_;
  ScannerProgram& program_;
  size_t at_ = 0;
  int depth_ = 0;
  bool fold_ = false;
  char32_t last_ = 0;  // the letter before, under (?i:...)
};

}  // namespace

bool parse_scanner(std::string_view pattern, ScannerProgram& program) {
  try {
    Parser(pattern, program).run();
    return true;
  } catch (const Outside&) {
    return false;
  }
}

}  // namespace sluice
