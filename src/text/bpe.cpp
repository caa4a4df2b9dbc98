// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace sluice {
namespace {
constexpr size_t kShortWord = 32;  // symbols up to which a scan beats a heap
constexpr char32_t kDirectCodes = 0x800;
constexpr std::string_view kMark = "\xE2\x96\x81";  // U+2581

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}
size_t pair_hash(uint64_t pair) {
  pair *= 0x9E3779B97F4A7C15ull;
  return static_cast<size_t>(pair ^ (pair >> 29));
}
}  // namespace

Bpe::Bpe(const ComponentJson& json) {
  read_vocab(json);
  byte_fallback_ = json.flag("byte_fallback", false);
  fuse_unk_ = json.flag("fuse_unk", false);
  ignore_merges_ = json.flag("ignore_merges", false);
  prefix_ = json.text("continuing_subword_prefix", "");
  suffix_ = json.text("end_of_word_suffix", "");
  if (const std::string unk = json.text("unk_token", ""); !unk.empty()) {
    unk_ = find(unk);
    if (unk_ < 0) json.refuse(fmt::format("unk_token {} is not in the vocabulary", unk));
  }
  for (int b = 0; b < 256; ++b) byte_ids_[b] = find(fmt::format("<0x{:02X}>", b));
  for (int b = 0; b < 256; ++b) {
    std::string text;
    append_byte_level(text, std::string(1, static_cast<char>(b)));
    mapped_ids_[b] = find(text);
  }
  code_ids_.assign(kDirectCodes, -1);
  for (char32_t code = 0; code < kDirectCodes; ++code) {
    std::string text;
    append_utf8(text, code);
    code_ids_[code] = find(text);
  }
  read_merges(json);
  find_boundary();
}

void Bpe::read_merges(const ComponentJson& json) {
  const List& merges = json.list("merges");
  size_t slots = 64;
  while (slots < 2 * merges.size()) slots *= 2;
  rules_.assign(slots, {});
  uint32_t rank = 0;
  for (const Value& merge : merges) {
    std::string left, right;
    if (merge.is_string()) {
      const std::string& line = merge.as_string();
      const size_t space = line.find(' ');
      if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
        json.refuse(fmt::format("merge {} should be two tokens with a space between", rank));
      }
      left = line.substr(0, space);
      right = line.substr(space + 1);
    } else if (merge.is_list() && merge.as_list().size() == 2 && merge.as_list()[0].is_string() &&
               merge.as_list()[1].is_string()) {
      left = merge.as_list()[0].as_string();
      right = merge.as_list()[1].as_string();
    } else {
      json.refuse(fmt::format("merge {} should be a string or a list of two strings", rank));
    }
    const auto known = [&](const std::string& token) {
      const int32_t found = find(token);
      if (found < 0)
        json.refuse(
            fmt::format("merge {} ({} {}) needs token {}, which is not in the vocabulary", rank, left, right, token));
      return found;
    };
    const std::string joined = left + (right.starts_with(prefix_) ? right.substr(prefix_.size()) : right);
    const uint64_t key = pair_key(known(left), known(right));
    size_t slot = pair_hash(key) & (slots - 1);
    while (rules_[slot].pair != ~0ull && rules_[slot].pair != key) slot = (slot + 1) & (slots - 1);
    rules_[slot] = {key, {rank++, known(joined)}};  // a duplicate pair keeps its last rank
  }
}

// SentencePiece's vocabularies do not cross words: where U+2581 follows another character no merge joins the two.
void Bpe::find_boundary() {
  cuts_at_mark_ = prefix_.empty() && suffix_.empty() && find(kMark) >= 0;
  for (const std::string& token : tokens()) {
    for (size_t at = token.find(kMark, 1); cuts_at_mark_ && at != std::string::npos; at = token.find(kMark, at + 1)) {
      if (at < kMark.size() || std::string_view(token).substr(at - kMark.size(), kMark.size()) != kMark)
        cuts_at_mark_ = false;
    }
  }
}

size_t Bpe::word_end(std::string_view piece, size_t begin) const {
  if (!cuts_at_mark_ || bytes_) return piece.size();
  size_t at = begin;
  while (piece.substr(at, kMark.size()) == kMark) at += kMark.size();
  return std::min(piece.find(kMark, at), piece.size());
}

bool Bpe::read_bytes() {
  bytes_ = prefix_.empty() && suffix_.empty() &&
           std::all_of(std::begin(mapped_ids_), std::end(mapped_ids_), [](int32_t id) { return id >= 0; });
  return bytes_;
}

const Bpe::Rule* Bpe::rule(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  const size_t mask = rules_.size() - 1;
  for (size_t slot = pair_hash(key) & mask; rules_[slot].pair != ~0ull; slot = (slot + 1) & mask) {
    if (rules_[slot].pair == key) return &rules_[slot].rule;
  }
  return nullptr;
}

// One symbol per character. An unknown one becomes its bytes' tokens, or unk, or nothing.
void Bpe::split(std::string_view word, Memory& memory) const {
  memory.symbols.clear();
  if (bytes_) {
    for (const char c : word) memory.symbols.push_back({mapped_ids_[static_cast<uint8_t>(c)], 0, 0});
    return;
  }
  bool pending_unk = false;  // comes out before the next known character, but after byte tokens in between
  const auto push = [&](int32_t id) { memory.symbols.push_back({id, 0, 0}); };
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    const char32_t code = next_code(word, at);
    std::string_view text = word.substr(begin, at - begin);
    int32_t known = -1;
    std::string decorated;
    if (prefix_.empty() && suffix_.empty()) {
      known = code < kDirectCodes ? code_ids_[code] : find(text);
    } else {
      if (begin > 0) decorated = prefix_;
      decorated += text;
      if (at == word.size()) decorated += suffix_;
      text = decorated;
      known = find(text);
    }
    if (known >= 0) {
      if (pending_unk) push(unk_);
      pending_unk = false;
      push(known);
      continue;
    }
    if (byte_fallback_ &&
        std::all_of(text.begin(), text.end(), [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; })) {
      for (const char c : text) push(byte_ids_[static_cast<uint8_t>(c)]);
      continue;
    }
    if (unk_ < 0) continue;
    if (pending_unk && !fuse_unk_) push(unk_);
    pending_unk = true;
  }
  if (pending_unk) push(unk_);
}

void Bpe::merge_short(Memory& memory) const {
  auto& symbols = memory.symbols;
  auto& ranks = memory.heap;  // ranks[i]: the merge of symbols i and i + 1
  constexpr uint32_t kNone = ~0u;
  const auto look_up = [&](size_t i) -> Memory::Merge {
    const Rule* r = rule(symbols[i].id, symbols[i + 1].id);
    return r != nullptr ? Memory::Merge{r->rank, 0, r->id, 0, 0} : Memory::Merge{kNone, 0, 0, 0, 0};
  };
  ranks.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) ranks.push_back(look_up(i));
  while (!ranks.empty()) {
    size_t best = 0;
    for (size_t i = 1; i < ranks.size(); ++i) {
      if (ranks[i].rank < ranks[best].rank) best = i;
    }
    if (ranks[best].rank == kNone) break;
    symbols[best].id = ranks[best].id;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    ranks.erase(ranks.begin() + static_cast<std::ptrdiff_t>(best));
    if (best < ranks.size()) ranks[best] = look_up(best);
    if (best > 0) ranks[best - 1] = look_up(best - 1);
  }
}

void Bpe::merge_long(Memory& memory) const {
  auto& symbols = memory.symbols;
  auto& heap = memory.heap;
  const auto later = [](const Memory::Merge& a, const Memory::Merge& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  };
  const auto candidate = [&](int32_t at) -> const Rule* {
    const auto& left = symbols[static_cast<size_t>(at)];
    return left.next < 0 ? nullptr : rule(left.id, symbols[static_cast<size_t>(left.next)].id);
  };
  const auto entry = [&](int32_t at, const Rule& r) -> Memory::Merge {
    const auto& left = symbols[static_cast<size_t>(at)];
    return {r.rank, at, r.id, left.id, symbols[static_cast<size_t>(left.next)].id};
  };
  const int32_t n = static_cast<int32_t>(symbols.size());
  heap.clear();
  for (int32_t i = 0; i < n; ++i) {
    symbols[static_cast<size_t>(i)].previous = i - 1;
    symbols[static_cast<size_t>(i)].next = i + 1 < n ? i + 1 : -1;
  }
  for (int32_t i = 0; i < n; ++i) {
    if (const Rule* r = candidate(i)) heap.push_back(entry(i, *r));
  }
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Memory::Merge merge = heap.back();
    heap.pop_back();
    auto& left = symbols[static_cast<size_t>(merge.at)];
    if (left.id != merge.left_id || left.next < 0 || symbols[static_cast<size_t>(left.next)].id != merge.right_id)
      continue;
    auto& right = symbols[static_cast<size_t>(left.next)];
    left.id = merge.id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = merge.at;
    for (const int32_t at : {left.previous, merge.at}) {
      if (at < 0) continue;
      if (const Rule* r = candidate(at)) {
        heap.push_back(entry(at, *r));
        std::push_heap(heap.begin(), heap.end(), later);
      }
    }
  }
  std::erase_if(symbols, [](const Memory::Symbol& s) { return s.id < 0; });
}

void Bpe::encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    std::string_view whole = word;
    if (bytes_) {
      memory.text.clear();
      append_byte_level(memory.text, word);
      whole = memory.text;
    }
    if (const int32_t known = find(whole); known >= 0) return out.push_back(known);
  }
  split(word, memory);
  memory.symbols.size() <= kShortWord ? merge_short(memory) : merge_long(memory);
  for (const auto& symbol : memory.symbols) out.push_back(symbol.id);
}

}  // namespace sluice
