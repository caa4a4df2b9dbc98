// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/unicode.h"

namespace sluice {
namespace {
constexpr size_t kShortWord = 32;       // symbols up to which a scan beats a heap
constexpr size_t kRememberedWord = 64;  // bytes
constexpr int64_t kMaxIds = 1 << 26;
constexpr char32_t kDirectCodes = 0x800;

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}
size_t pair_hash(uint64_t pair) {
  pair *= 0x9E3779B97F4A7C15ull;
  return static_cast<size_t>(pair ^ (pair >> 29));
}
}  // namespace

Bpe::Bpe(const ComponentJson& json) {
  const Value* vocab = json.json.find("vocab");
  if (vocab == nullptr || !vocab->is_dict()) json.refuse("\"vocab\" should be an object of token to id");
  ids_.reserve(vocab->as_dict().size());
  for (const auto& [token, id] : vocab->as_dict().entries()) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() >= kMaxIds)
      json.refuse(fmt::format("id of token {} is out of range", token));
    const size_t at = static_cast<size_t>(id.as_int());
    if (at >= tokens_.size()) tokens_.resize(at + 1);
    tokens_[at] = token;
    ids_.emplace(token, static_cast<int32_t>(at));
  }
  byte_fallback_ = json.flag("byte_fallback", false);
  fuse_unk_ = json.flag("fuse_unk", false);
  ignore_merges_ = json.flag("ignore_merges", false);
  prefix_ = json.text("continuing_subword_prefix", "");
  suffix_ = json.text("end_of_word_suffix", "");
  if (const std::string unk = json.text("unk_token", ""); !unk.empty()) {
    unk_ = id(unk);
    if (!unk_) json.refuse(fmt::format("unk_token {} is not in the vocabulary", unk));
  }
  for (int b = 0; b < 256; ++b) byte_ids_[b] = id(fmt::format("<0x{:02X}>", b)).value_or(-1);
  code_ids_.assign(kDirectCodes, -1);
  for (char32_t code = 0; code < kDirectCodes; ++code) {
    std::string text;
    append_utf8(text, code);
    code_ids_[code] = id(text).value_or(-1);
  }

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
      const auto found = id(token);
      if (!found)
        json.refuse(
            fmt::format("merge {} ({} {}) needs token {}, which is not in the vocabulary", rank, left, right, token));
      return *found;
    };
    const std::string joined = left + (right.starts_with(prefix_) ? right.substr(prefix_.size()) : right);
    const uint64_t key = pair_key(known(left), known(right));
    size_t slot = pair_hash(key) & (slots - 1);
    while (rules_[slot].pair != ~0ull && rules_[slot].pair != key) slot = (slot + 1) & (slots - 1);
    rules_[slot] = {key, {rank++, known(joined)}};  // a duplicate pair keeps its last rank
  }
}

std::optional<int32_t> Bpe::id(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
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
void Bpe::split(std::string_view word, Scratch& scratch) const {
  scratch.symbols.clear();
  bool pending_unk = false;  // comes out before the next known character, but after byte tokens in between
  const auto push = [&](int32_t id) { scratch.symbols.push_back({id, 0, 0}); };
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    const char32_t code = next_code(word, at);
    std::string_view text = word.substr(begin, at - begin);
    int32_t known = -1;
    std::string decorated;
    if (prefix_.empty() && suffix_.empty()) {
      known = code < kDirectCodes ? code_ids_[code] : id(text).value_or(-1);
    } else {
      if (begin > 0) decorated = prefix_;
      decorated += text;
      if (at == word.size()) decorated += suffix_;
      text = decorated;
      known = id(text).value_or(-1);
    }
    if (known >= 0) {
      if (pending_unk) push(*unk_);
      pending_unk = false;
      push(known);
      continue;
    }
    if (byte_fallback_ &&
        std::all_of(text.begin(), text.end(), [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; })) {
      for (const char c : text) push(byte_ids_[static_cast<uint8_t>(c)]);
      continue;
    }
    if (!unk_) continue;
    if (pending_unk && !fuse_unk_) push(*unk_);
    pending_unk = true;
  }
  if (pending_unk) push(*unk_);
}

void Bpe::merge_short(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& ranks = scratch.heap;  // ranks[i]: the merge of symbols i and i + 1
  constexpr uint32_t kNone = ~0u;
  const auto look_up = [&](size_t i) -> Scratch::Merge {
    const Rule* r = rule(symbols[i].id, symbols[i + 1].id);
    return r != nullptr ? Scratch::Merge{r->rank, 0, r->id, 0, 0} : Scratch::Merge{kNone, 0, 0, 0, 0};
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

void Bpe::merge_long(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto later = [](const Scratch::Merge& a, const Scratch::Merge& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  };
  const auto candidate = [&](int32_t at) -> const Rule* {
    const auto& left = symbols[static_cast<size_t>(at)];
    return left.next < 0 ? nullptr : rule(left.id, symbols[static_cast<size_t>(left.next)].id);
  };
  const auto entry = [&](int32_t at, const Rule& r) -> Scratch::Merge {
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
    const Scratch::Merge merge = heap.back();
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
  std::erase_if(symbols, [](const Scratch::Symbol& s) { return s.id < 0; });
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    if (const auto whole = id(word)) {
      out.push_back(*whole);
      return;
    }
  }
  const bool remember = word.size() > 1 && word.size() <= kRememberedWord;
  Scratch::Range* range = nullptr;
  if (remember) {
    const auto [it, fresh] = scratch.words.try_emplace(std::string(word), Scratch::Range{0, 0});
    if (!fresh) {
      const auto begin = scratch.stored.begin() + it->second.begin;
      out.insert(out.end(), begin, begin + it->second.size);
      return;
    }
    range = &it->second;
  }
  split(word, scratch);
  scratch.symbols.size() <= kShortWord ? merge_short(scratch) : merge_long(scratch);
  if (range != nullptr) {
    *range = {static_cast<uint32_t>(scratch.stored.size()), static_cast<uint32_t>(scratch.symbols.size())};
    for (const auto& symbol : scratch.symbols) scratch.stored.push_back(symbol.id);
  }
  for (const auto& symbol : scratch.symbols) out.push_back(symbol.id);
}

}  // namespace sluice
