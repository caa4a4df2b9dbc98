// SPDX-License-Identifier: Apache-2.0
#include "grammar/json_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/json_text.h"
#include "grammar/regex.h"

namespace sluice::grammar {
namespace {

constexpr int64_t kMostDigits = 999999999999999;  // 15 digits: exact in every reader
constexpr std::string_view kInteger = "-?(0|[1-9][0-9]{0,14})";
constexpr std::string_view kFraction = "(\\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?";

}  // namespace

std::string JsonParts::escaped(std::string_view text) {
  std::string out;
  append_json_text(out, text);
  return out;
}

Expr JsonParts::space() {
  if (!space_) space_ = parse_regex(b, "( |\\n( {0,40}|\\t{0,10}))?", {});
  return *space_;
}

Expr JsonParts::character() {
  if (!character_) {
    const Expr plain = b.chars(complement({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}), false);
    // Not half of a surrogate pair: alone it is no text.
    const Expr escape =
        parse_regex(b, "\\\\([\"\\\\/bfnrt]|u([0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))", {});
    character_ = b.widened(b.alt({plain, escape}), plain);
  }
  return *character_;
}

Expr JsonParts::string(uint32_t min, uint32_t max) { return quoted(b.repeat(character(), min, max)); }

// Without escapes, so that no spelling of a name in the list slips through. Characters beyond ASCII are left out where
// a name in the list continues with one.
Expr JsonParts::other_key(const std::vector<std::string>& names) {
  const std::vector<CodeRange> plain = complement({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}});
  const Expr rest = b.repeat(b.chars(plain, false), 0, kNoMax);
  std::vector<std::string> sorted;
  for (const std::string& name : names)
    if (escaped(name) == name) sorted.push_back(name);  // the others cannot be spelled without escapes
  std::ranges::sort(sorted);
  // What may follow the first `depth` bytes, which sorted[begin, end) share.
  const auto after = [&](auto&& self, size_t begin, size_t end, size_t depth) -> Expr {
    std::vector<Expr> ways;
    std::vector<CodeRange> taken;
    bool named = false;
    for (size_t i = begin; i < end;) {
      if (sorted[i].size() == depth) {
        named = true;
        ++i;
        continue;
      }
      const auto byte = static_cast<uint8_t>(sorted[i][depth]);
      size_t last = i;
      while (last < end && static_cast<uint8_t>(sorted[last][depth]) == byte) ++last;
      if (byte >= 0x80) {
        taken.push_back({0x80, 0x10FFFF});
      } else {
        taken.push_back({byte, byte});
        ways.push_back(b.seq({b.literal(std::string(1, static_cast<char>(byte))), self(self, i, last, depth + 1)}));
      }
      i = last;
    }
    std::vector<CodeRange> free = complement(plain);
    free.insert(free.end(), taken.begin(), taken.end());
    ways.push_back(b.seq({b.chars(complement(std::move(free)), false), rest}));
    if (!named) ways.push_back(b.empty());
    return b.alt(std::move(ways));
  };
  return b.seq({after(after, 0, sorted.size(), 0), b.literal("\"")});
}

// Numbers of as many digits as `low` and `high` have, from one to the other, with a point before the last `point`.
Expr JsonParts::digits(const std::string& low, const std::string& high, size_t point) {
  std::map<std::tuple<size_t, bool, bool>, Expr> done;
  const auto from = [&](auto&& self, size_t at, bool tight_low, bool tight_high) -> Expr {
    if (at == low.size()) return b.empty();
    const auto key = std::tuple(at, tight_low, tight_high);
    if (const auto it = done.find(key); it != done.end()) return it->second;
    const char first = tight_low ? low[at] : '0', last = tight_high ? high[at] : '9';
    const auto piece = [&](char begin, char end, bool still_low, bool still_high) {
      std::vector<Expr> parts;
      if (point > 0 && at + point == low.size()) parts.push_back(b.literal("."));
      parts.push_back(b.byte_range(static_cast<uint8_t>(begin), static_cast<uint8_t>(end)));
      parts.push_back(self(self, at + 1, still_low, still_high));
      return b.seq(std::move(parts));
    };
    std::vector<Expr> ways;
    if (first == last) {
      ways.push_back(piece(first, last, tight_low, tight_high));
    } else if (first < last) {
      char begin = first, end = last;
      if (tight_low) ways.push_back(piece(begin, begin, true, false)), ++begin;
      if (tight_high) ways.push_back(piece(end, end, false, true)), --end;
      if (begin <= end) ways.push_back(piece(begin, end, false, false));
    }
    const Expr all = b.alt(std::move(ways));
    done.emplace(key, all);
    return all;
  };
  return from(from, 0, true, true);
}

// low / 10^decimals to high / 10^decimals, with exactly so many decimals.
Expr JsonParts::between(uint64_t low, uint64_t high, int decimals) {
  std::vector<Expr> ways;
  const auto width = static_cast<size_t>(decimals) + 1;
  while (low <= high) {
    std::string from = std::to_string(low);
    if (from.size() < width) from.insert(0, width - from.size(), '0');
    uint64_t end = 1;  // the last number of this many digits
    for (size_t i = 0; i < from.size(); ++i) end *= 10;
    --end;
    std::string to = std::to_string(std::min(high, end));
    if (to.size() < width) to.insert(0, width - to.size(), '0');
    ways.push_back(digits(from, to, static_cast<size_t>(decimals)));
    low = end + 1;
  }
  return b.alt(std::move(ways));
}

Expr JsonParts::integer(std::optional<int64_t> low_in, std::optional<int64_t> high_in) {
  if (!low_in && !high_in) return parse_regex(b, kInteger, {});
  const int64_t low = low_in.value_or(std::min(-kMostDigits, *high_in - 1000000));
  const int64_t high = high_in.value_or(std::max(kMostDigits, low + 1000000));
  std::vector<Expr> ways;
  if (high >= 0 && low <= high)
    ways.push_back(between(static_cast<uint64_t>(std::max<int64_t>(low, 0)), static_cast<uint64_t>(high), 0));
  if (low < 0 && low <= high)
    ways.push_back(b.seq({b.literal("-"), between(static_cast<uint64_t>(-std::min<int64_t>(high, -1)),
                                                  static_cast<uint64_t>(-low), 0)}));
  return b.alt(std::move(ways));
}

Expr JsonParts::number() { return parse_regex(b, fmt::format("{}{}", kInteger, kFraction), {}); }

// Whole numbers, and decimals of as many places as the finer bound has (at least two), without exponents.
Expr JsonParts::number(std::optional<Decimal> low, bool low_open, std::optional<Decimal> high, bool high_open) {
  int places = 2;
  for (const auto& bound : {low, high})
    if (bound) places = std::max(places, bound->decimals);
  int64_t scale = 1;
  for (int i = 0; i < places; ++i) scale *= 10;
  const auto units = [&](const Decimal& d) {
    int64_t value = d.units;
    for (int i = d.decimals; i < places; ++i)
      if (__builtin_mul_overflow(value, int64_t{10}, &value) || value > 100000000000000000 ||
          value < -100000000000000000)
        throw RequestError(RequestError::Kind::kValidation,
                           "the bounds of a number have too many digits; at most 17 are supported", "grammar");
    return value;
  };
  constexpr int64_t kFar = 100000000000000000;
  int64_t from = low ? units(*low) + (low_open ? 1 : 0) : std::min<int64_t>(-kFar, high ? units(*high) - kFar : 0);
  int64_t to = high ? units(*high) - (high_open ? 1 : 0) : std::max<int64_t>(kFar, from + kFar);
  if (!low && high) from = units(*high) - kFar;
  const auto floor_div = [&](int64_t a) { return a / scale - (a % scale < 0 ? 1 : 0); };
  const int64_t first = -floor_div(-from), last = floor_div(to);
  std::vector<Expr> ways;
  if (first <= last) ways.push_back(integer(first, last));
  if (to >= 0 && from <= to)
    ways.push_back(between(static_cast<uint64_t>(std::max<int64_t>(from, 0)), static_cast<uint64_t>(to), places));
  if (from < 0 && from <= to)
    ways.push_back(b.seq({b.literal("-"), between(static_cast<uint64_t>(-std::min<int64_t>(to, -1)),
                                                  static_cast<uint64_t>(-from), places)}));
  return b.alt(std::move(ways));
}

Expr JsonParts::list(Expr item, uint32_t min, uint32_t max) {
  if (max == 0) return b.empty();
  const Expr more = b.repeat(b.seq({comma(), item}), min > 0 ? min - 1 : 0, max == kNoMax ? kNoMax : max - 1);
  const Expr all = b.seq({item, more});
  return min == 0 ? b.optional(all) : all;
}

Expr JsonParts::array(Expr item, uint32_t min, uint32_t max) {
  return b.seq({b.literal("["), space(), list(item, min, max), space(), b.literal("]")});
}

Expr JsonParts::members(Expr one, uint32_t min, uint32_t max) {
  return b.seq({b.literal("{"), space(), list(one, min, max), space(), b.literal("}")});
}

Expr JsonParts::object() {
  if (!object_) {
    object_ = b.new_rule("object");
    b.define(*object_, members(pair(string(0, kNoMax), any()), 0, kNoMax));
  }
  return b.call(*object_);
}

Expr JsonParts::any() {
  if (!any_) {
    any_ = b.new_rule("value");
    const Expr body = b.alt({string(0, kNoMax), number(), b.literal("true"), b.literal("false"), b.literal("null"),
                             object(), array(b.call(*any_), 0, kNoMax)});
    b.define(*any_, body);
  }
  return b.call(*any_);
}

}  // namespace sluice::grammar
