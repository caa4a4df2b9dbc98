// SPDX-License-Identifier: Apache-2.0
#include "grammar/ebnf.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "grammar/regex.h"

namespace sluice::grammar {
namespace {

constexpr int kMaxDepth = 100;

bool names(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

class Parser {
 public:
  Parser(Builder& builder, std::string_view text) : b_(builder), text_(text) {}

  Expr run() {
    std::string first;
    for (skip(); at_ < text_.size(); skip()) {
      const std::string name = identifier();
      skip();
      if (!take("::=")) malformed("expected ::= after the name of a rule");
      if (defined_[name]) malformed(fmt::format("the rule {} is there twice", name));
      defined_[name] = true;
      if (first.empty()) first = name;
      b_.define(rule(name), alternatives(0));
    }
    if (first.empty()) malformed("expected at least one rule `name ::= ...`");
    for (const auto& [name, id] : rules_)
      if (!defined_[name]) malformed(fmt::format("the rule {} is used and not defined", name));
    return b_.call(rule(defined_.contains("root") ? "root" : first));
  }

 private:
  [[noreturn]] void malformed(const std::string& what) const {
    const auto line =
        1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(std::min(at_, text_.size())), '\n');
    throw RequestError(RequestError::Kind::kValidation, fmt::format("grammar: {}, at line {}", what, line), "grammar");
  }
  bool take(std::string_view s) {
    if (!text_.substr(at_).starts_with(s)) return false;
    at_ += s.size();
    return true;
  }
  void skip() {
    while (at_ < text_.size()) {
      if (text_[at_] == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\r' || text_[at_] == '\n') {
        ++at_;
      } else {
        return;
      }
    }
  }
  std::string identifier() {
    const size_t begin = at_;
    while (at_ < text_.size() && names(text_[at_])) ++at_;
    if (at_ == begin) malformed(fmt::format("expected a name, found '{}'", text_.substr(at_, 1)));
    return std::string(text_.substr(begin, at_ - begin));
  }
  // The name of the next rule ends the one before it.
  bool at_definition() {
    const size_t begin = at_;
    while (at_ < text_.size() && names(text_[at_])) ++at_;
    const bool named = at_ > begin;
    skip();
    const bool found = named && text_.substr(at_).starts_with("::=");
    at_ = begin;
    return found;
  }
  uint32_t rule(const std::string& name) {
    const auto it = rules_.find(name);
    return it != rules_.end() ? it->second : rules_.emplace(name, b_.new_rule(name)).first->second;
  }

  Expr alternatives(int depth) {
    if (depth > kMaxDepth) malformed("groups are nested too deep");
    std::vector<Expr> ways{sequence(depth)};
    while (take("|")) ways.push_back(sequence(depth));
    return b_.alt(std::move(ways));
  }

  Expr sequence(int depth) {
    std::vector<Expr> parts;
    for (skip(); at_ < text_.size() && text_[at_] != '|' && text_[at_] != ')' && !at_definition(); skip())
      parts.push_back(repeated(part(depth)));
    return b_.seq(std::move(parts));
  }

  Expr part(int depth) {
    const char c = text_[at_];
    if (c == '"' || c == '\'') return quoted(c);
    if (c == '[') return char_class();
    if (take(".")) return b_.chars({{0, 0x10FFFF}}, false);
    if (take("(")) {
      const Expr inner = alternatives(depth + 1);
      skip();
      if (!take(")")) malformed("a group has no end");
      return inner;
    }
    return b_.call(rule(identifier()));
  }

  Expr quoted(char quote) {
    const size_t begin = ++at_;
    std::string pattern;  // as a regular expression, whose escapes are a superset
    for (; at_ < text_.size() && text_[at_] != quote; ++at_) {
      if (text_[at_] == '\n') break;
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) {
        pattern += text_[at_++];
        pattern += text_[at_];
        continue;
      }
      if (std::string_view("()[]{}*+?|.^$").find(text_[at_]) != std::string_view::npos) pattern += '\\';
      pattern += text_[at_];
    }
    if (at_ >= text_.size() || text_[at_] != quote) {
      at_ = begin;
      malformed("a text has no closing quote");
    }
    ++at_;
    return parse_regex(b_, pattern, {});
  }

  Expr char_class() {
    const size_t begin = at_++;
    for (; at_ < text_.size() && text_[at_] != ']'; ++at_)
      if (text_[at_] == '\\') ++at_;
    if (at_ >= text_.size()) {
      at_ = begin;
      malformed("a character class has no end");
    }
    ++at_;
    return parse_regex(b_, text_.substr(begin, at_ - begin), {});
  }

  Expr repeated(Expr expr) {
    for (;;) {
      if (take("*")) {
        expr = b_.repeat(expr, 0, kNoMax);
      } else if (take("+")) {
        expr = b_.repeat(expr, 1, kNoMax);
      } else if (take("?")) {
        expr = b_.optional(expr);
      } else if (take("{")) {
        const uint32_t min = number();
        uint32_t max = min;
        if (take(",")) max = at_ < text_.size() && text_[at_] != '}' ? number() : kNoMax;
        if (!take("}") || max < min) malformed("expected {m}, {m,} or {m,n}");
        expr = b_.repeat(expr, min, max);
      } else {
        return expr;
      }
    }
  }

  uint32_t number() {
    uint32_t n = 0;
    const size_t begin = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      n = n * 10 + static_cast<uint32_t>(text_[at_] - '0');
      if (n > 1000000) malformed("a count is above 1000000");
    }
    if (at_ == begin) malformed("expected a count");
    return n;
  }

  Builder& b_;
  std::string_view text_;
  size_t at_ = 0;
  std::map<std::string, uint32_t> rules_;
  std::map<std::string, bool> defined_;
};

}  // namespace

Expr parse_ebnf(Builder& builder, std::string_view text) { return Parser(builder, text).run(); }

}  // namespace sluice::grammar
