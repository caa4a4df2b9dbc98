// SPDX-License-Identifier: Apache-2.0
#include "grammar/expression.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json_text.h"

namespace sluice::grammar {
namespace {

constexpr size_t kMaxNodes = 400000;
constexpr uint32_t kLastCode = 0x10FFFF;

// Byte strings of one length whose first and last members are `low` and `high`, as ranges per byte.
struct Utf8 {
  uint8_t bytes[4];
  int length;
};

Utf8 encode(uint32_t c) {
  if (c < 0x80) return {{static_cast<uint8_t>(c)}, 1};
  if (c < 0x800) return {{static_cast<uint8_t>(0xC0 | c >> 6), static_cast<uint8_t>(0x80 | (c & 63))}, 2};
  if (c < 0x10000)
    return {{static_cast<uint8_t>(0xE0 | c >> 12), static_cast<uint8_t>(0x80 | (c >> 6 & 63)),
             static_cast<uint8_t>(0x80 | (c & 63))},
            3};
  return {{static_cast<uint8_t>(0xF0 | c >> 18), static_cast<uint8_t>(0x80 | (c >> 12 & 63)),
           static_cast<uint8_t>(0x80 | (c >> 6 & 63)), static_cast<uint8_t>(0x80 | (c & 63))},
          4};
}

// Cuts [low, high] until each piece is a product of byte ranges.
void cut(Builder& b, uint32_t low, uint32_t high, std::vector<Expr>& out) {
  for (const uint32_t border : {0x7Fu, 0x7FFu, 0xFFFFu}) {
    if (low <= border && high > border) {
      cut(b, low, border, out);
      cut(b, border + 1, high, out);
      return;
    }
  }
  for (uint32_t bits = 6; high >= 0x80 && bits <= 18; bits += 6) {
    const uint32_t mask = (1u << bits) - 1;
    if ((low & ~mask) == (high & ~mask)) break;
    if ((low & mask) != 0) {
      cut(b, low, low | mask, out);
      cut(b, (low | mask) + 1, high, out);
      return;
    }
    if ((high & mask) != mask) {
      cut(b, low, (high & ~mask) - 1, out);
      cut(b, high & ~mask, high, out);
      return;
    }
  }
  const Utf8 first = encode(low), last = encode(high);
  std::vector<Expr> parts;
  for (int i = 0; i < first.length; ++i) parts.push_back(b.byte_range(first.bytes[i], last.bytes[i]));
  out.push_back(b.seq(std::move(parts)));
}

}  // namespace

std::vector<CodeRange> merged(std::vector<CodeRange> ranges) {
  std::ranges::sort(ranges);
  std::vector<CodeRange> out;
  for (const CodeRange& r : ranges) {
    if (!out.empty() && r.first <= out.back().second + 1) {
      out.back().second = std::max(out.back().second, r.second);
    } else {
      out.push_back(r);
    }
  }
  return out;
}

std::vector<CodeRange> complement(std::vector<CodeRange> ranges) {
  std::vector<CodeRange> out;
  uint32_t next = 0;
  for (const CodeRange& r : merged(std::move(ranges))) {
    if (r.first > next) out.push_back({next, r.first - 1});
    next = r.second + 1;
  }
  if (next <= kLastCode) out.push_back({next, kLastCode});
  return out;
}

Expr Builder::add(Node node) {
  if (nodes_.size() >= kMaxNodes)
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("the grammar has more than {} parts; make it smaller", kMaxNodes), "grammar");
  nodes_.push_back(std::move(node));
  return static_cast<Expr>(nodes_.size() - 1);
}

Expr Builder::bytes(const std::bitset<256>& set) { return add({Kind::kBytes, set, {}}); }

Expr Builder::byte_range(uint8_t low, uint8_t high) {
  std::bitset<256> set;
  for (size_t i = low; i <= high; ++i) set.set(i);
  return bytes(set);
}

Expr Builder::literal(std::string_view text) {
  std::vector<Expr> parts;
  for (const char c : text) parts.push_back(byte_range(static_cast<uint8_t>(c), static_cast<uint8_t>(c)));
  return seq(std::move(parts));
}

Expr Builder::any_of(const std::vector<std::string>& texts) {
  std::vector<std::string> sorted = texts;
  std::ranges::sort(sorted);
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  return literals(sorted, 0, sorted.size(), 0);
}

// Of the texts [begin, end), which agree in their first `depth` bytes, what follows those.
Expr Builder::literals(const std::vector<std::string>& sorted, size_t begin, size_t end, size_t depth) {
  if (end - begin == 1) return literal(std::string_view(sorted[begin]).substr(depth));
  std::vector<Expr> ways;
  if (begin < end && sorted[begin].size() == depth) {
    ways.push_back(empty());
    ++begin;
  }
  while (begin < end) {
    size_t last = begin, shared = depth + 1;
    while (last < end && sorted[last][depth] == sorted[begin][depth]) ++last;
    const std::string &a = sorted[begin], &z = sorted[last - 1];
    while (shared < a.size() && shared < z.size() && a[shared] == z[shared]) ++shared;
    ways.push_back(
        seq({literal(std::string_view(a).substr(depth, shared - depth)), literals(sorted, begin, last, shared)}));
    begin = last;
  }
  return alt(std::move(ways));
}

Expr Builder::seq(std::vector<Expr> parts) {
  if (parts.size() == 1) return parts[0];
  return add({Kind::kSeq, {}, std::move(parts)});
}

Expr Builder::alt(std::vector<Expr> parts) {
  if (parts.size() == 1) return parts[0];
  std::bitset<256> set;
  for (const Expr part : parts) {
    if (nodes_[part].kind != Kind::kBytes) return add({Kind::kAlt, {}, std::move(parts)});
    set |= nodes_[part].bytes;
  }
  return parts.empty() ? add({Kind::kAlt, {}, {}}) : bytes(set);
}

Expr Builder::repeat(Expr part, uint32_t min, uint32_t max) {
  if (min == 1 && max == 1) return part;
  if (max == 0) return empty();
  Node node{Kind::kRepeat, {}, {part}};
  node.min = min;
  node.max = max;
  node.char_class = nodes_[part].char_class;
  return add(std::move(node));
}

uint32_t Builder::new_rule(std::string name) {
  rules_.push_back({std::move(name), 0});
  return static_cast<uint32_t>(rules_.size() - 1);
}

Expr Builder::call(uint32_t rule) {
  Node node{Kind::kRule, {}, {}};
  node.rule = rule;
  return add(std::move(node));
}

Expr Builder::chars(std::vector<CodeRange> ranges, bool json) {
  std::vector<CodeRange> out = complement(std::move(ranges));
  out.push_back({0xD800, 0xDFFF});
  const std::vector<CodeRange> wanted = complement(out);
  if (json) {
    out.push_back({0, 0x1F});
    out.push_back({'"', '"'});
    out.push_back({'\\', '\\'});
  }
  std::vector<Expr> ways;
  const std::vector<CodeRange> plain = complement(out);  // as themselves
  for (const auto& [low, high] : plain) cut(*this, low, high, ways);
  if (json) {
    std::vector<std::string> escapes;
    for (const auto& [low, high] : wanted) {
      for (uint32_t c = low; c <= std::min<uint32_t>(high, '\\'); ++c) {
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        const char text = static_cast<char>(c);
        append_json_text(escapes.emplace_back(), {&text, 1});
      }
    }
    if (!escapes.empty()) ways.push_back(any_of(escapes));
  }
  const Expr all = alt(std::move(ways));
  nodes_[all].char_class = char_class(plain);
  return all;
}

Expr Builder::widened(Expr wide, Expr narrow) {
  nodes_[wide].char_class = nodes_[narrow].char_class;
  return wide;
}

// 0 where there are so few characters that few tokens are made of them.
uint32_t Builder::char_class(const std::vector<CodeRange>& ranges) {
  constexpr size_t kFewest = 20, kMost = 64;
  size_t n = 0;
  for (const auto& [low, high] : ranges) n += high - low + 1;
  if (n < kFewest) return 0;
  const auto known = std::ranges::find(char_classes_, ranges);
  const auto at = static_cast<uint32_t>(known - char_classes_.begin());
  if (known != char_classes_.end()) return at + 1;
  if (char_classes_.size() == kMost) return 0;
  char_classes_.push_back(ranges);
  return at + 1;
}

}  // namespace sluice::grammar
