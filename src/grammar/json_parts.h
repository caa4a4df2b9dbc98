// SPDX-License-Identifier: Apache-2.0
// JSON texts as expressions: strings, numbers, white space, values of any kind. White space is what models write: at
// most one space, or a line break and up to 40 spaces or 10 tabs.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "grammar/expression.h"

namespace sluice::grammar {

// A bound of a number: `units` / 10^decimals.
struct Decimal {
  int64_t units = 0;
  int decimals = 0;
};

class JsonParts {
 public:
  explicit JsonParts(Builder& builder) : b(builder) {}

  Expr space();                             // white space between parts
  Expr character();                         // one of a string
  Expr string(uint32_t min, uint32_t max);  // with quotes, `min` to `max` characters
  Expr quoted(Expr content) { return b.seq({b.literal("\""), content, b.literal("\"")}); }
  // Names of members behind their opening quote: exactly this text, as JSON; any that is none of these.
  Expr key(std::string_view text) { return b.literal(escaped(text) + "\""); }
  Expr other_key(const std::vector<std::string>& names);
  Expr integer(std::optional<int64_t> low, std::optional<int64_t> high);  // both included
  Expr number();
  Expr number(std::optional<Decimal> low, bool low_open, std::optional<Decimal> high, bool high_open);
  Expr any();     // any value
  Expr object();  // any object
  Expr array(Expr item, uint32_t min, uint32_t max);
  Expr members(Expr pair, uint32_t min, uint32_t max);  // an object of such pairs
  Expr pair(Expr key, Expr value) { return b.seq({key, b.literal(":"), b.optional(b.literal(" ")), value}); }
  Expr comma() { return b.seq({b.literal(","), space()}); }
  Expr list(Expr item, uint32_t min, uint32_t max);  // items with commas between

  static std::string escaped(std::string_view text);  // as JSON, without quotes

 private:
  Expr digits(const std::string& low, const std::string& high, size_t point);
  Expr between(uint64_t low, uint64_t high, int decimals);
  Builder& b;
  std::optional<Expr> space_, character_;
  std::optional<uint32_t> any_, object_;
};

}  // namespace sluice::grammar
