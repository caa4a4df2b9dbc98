// SPDX-License-Identifier: Apache-2.0
#include "text/charsmap.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace sluice {
namespace {
constexpr size_t kShortCluster = 6;  // bytes from which a cluster is taken character by character

// A unit of the double array.
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t value(uint32_t unit) { return unit & 0x7FFFFFFF; }
uint32_t label(uint32_t unit) { return unit & (1u << 31 | 0xFF); }
uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }
}  // namespace

Charsmap::Charsmap(std::string_view bytes) {
  const auto number = [&](size_t at) {
    uint32_t out = 0;
    for (size_t i = 0; i < 4; ++i) out |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[at + i])) << (8 * i);
    return out;
  };
  if (bytes.size() < 8) throw Error(fmt::format("expected at least 8 bytes, found {}", bytes.size()));
  const size_t size = number(0);
  if (size == 0 || size % 4 != 0 || size > bytes.size() - 4)
    throw Error(fmt::format("its trie has {} bytes, expected a multiple of 4 up to {}", size, bytes.size() - 4));
  for (size_t at = 4; at < 4 + size; at += 4) trie_.push_back(number(at));
  replacements_ = bytes.substr(4 + size);
  if (!is_utf8(replacements_)) throw Error("its replacements are not UTF-8");
  if (!replacements_.empty() && replacements_.back() != '\0') throw Error("its last replacement does not end with NUL");
  for (size_t byte = 1; byte < 128; ++byte) {
    const char c = static_cast<char>(byte);
    std::string_view ignored;
    changed_[byte] = look_up({&c, 1}, ignored);
  }
}

bool Charsmap::look_up(std::string_view text, std::string_view& replacement) const {
  uint32_t at = offset(trie_[0]);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    at ^= byte;
    if (byte == 0 || at >= trie_.size() || label(trie_[at]) != byte) return false;
    const uint32_t unit = trie_[at];
    at ^= offset(unit);
    if (at >= trie_.size()) return false;
    if (!has_leaf(unit)) continue;
    const size_t begin = value(trie_[at]);
    if (begin >= replacements_.size() || (static_cast<uint8_t>(replacements_[begin]) & 0xC0) == 0x80) return false;
    replacement = std::string_view(replacements_).substr(begin, replacements_.find('\0', begin) - begin);
    return true;
  }
  return false;
}

std::string Charsmap::apply(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  const auto put = [&](std::string_view part) {
    std::string_view replacement = part;
    look_up(part, replacement);
    out += replacement;
  };
  for (size_t at = 0; at < text.size();) {
    // ASCII followed by ASCII is a cluster of its own, but for CR LF.
    const auto byte = static_cast<uint8_t>(text[at]);
    if (byte < 0x80 && byte != '\r' && at + 1 < text.size() && static_cast<uint8_t>(text[at + 1]) < 0x80) {
      changed_[byte] ? put(text.substr(at, 1)) : void(out += text[at]);
      ++at;
      continue;
    }
    size_t end = at;
    char32_t code = next_code(text, end);
    for (utf8proc_int32_t state = 0; end < text.size();) {
      size_t next = end;
      const char32_t following = next_code(text, next);
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(code),
                                           static_cast<utf8proc_int32_t>(following), &state))
        break;
      code = following;
      end = next;
    }
    const std::string_view cluster = text.substr(at, end - at);
    std::string_view replacement;
    if (cluster.size() < kShortCluster && look_up(cluster, replacement)) {
      out += replacement;
    } else {
      for (size_t from = 0, next = 0; from < cluster.size(); from = next) {
        next_code(cluster, next);
        put(cluster.substr(from, next - from));
      }
    }
    at = end;
  }
  return out;
}

}  // namespace sluice
