// SPDX-License-Identifier: Apache-2.0
#include "text/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "text/unicode.h"

namespace sluice {
namespace {
constexpr double kUnkPenalty = 10.0;
constexpr size_t kMaxToken = 1024;  // bytes; bounds the work per character of text
constexpr size_t kMaxNodes = 1 << 24;

size_t slot_of(uint32_t key, size_t mask) {
  const uint64_t mixed = key * 0x9E3779B97F4A7C15ull;
  return static_cast<size_t>(mixed >> 32) & mask;
}
}  // namespace

Unigram::Unigram(const ComponentJson& json) {
  const List& vocab = json.list("vocab");
  if (vocab.empty()) json.refuse("\"vocab\" holds no tokens");
  id_at_.push_back(-1);
  edges_.resize(1024);
  double lowest = std::numeric_limits<double>::infinity();
  for (const Value& entry : vocab) {
    const size_t id = scores_.size();
    if (!entry.is_list() || entry.as_list().size() != 2 || !entry.as_list()[0].is_string() ||
        !entry.as_list()[1].is_number() || entry.as_list()[1].is_bool())
      json.refuse(fmt::format("entry {} of \"vocab\" should be [token, score]", id));
    const std::string& token = entry.as_list()[0].as_string();
    const double score = entry.as_list()[1].as_float();
    if (score != score || score == std::numeric_limits<double>::infinity())
      json.refuse(fmt::format("the score of token {} should be a number, found {}", token, score));
    if (token.size() > kMaxToken)
      json.refuse(fmt::format("token {} has {} bytes, expected at most {}", id, token.size(), kMaxToken));
    add(token, static_cast<int32_t>(id));
    insert(token, static_cast<int32_t>(id));
    scores_.push_back(score);
    lowest = std::min(lowest, score);
  }
  unk_score_ = lowest - kUnkPenalty;
  if (const int64_t unk = json.integer("unk_id", -1); unk >= 0) {
    if (unk >= static_cast<int64_t>(vocab.size()))
      json.refuse(fmt::format("\"unk_id\" is {}, expected one of the {} tokens", unk, vocab.size()));
    unk_ = static_cast<int32_t>(unk);
  }
  byte_fallback_ = json.flag("byte_fallback", false);
  fuse_unk_ = json.flag("fuse_unk", true);
  for (int b = 0; b < 256; ++b) byte_ids_[b] = find(fmt::format("<0x{:02X}>", b));
}

uint32_t Unigram::child(uint32_t node, uint8_t byte) const {
  const uint32_t key = (node << 8 | byte) + 1;
  const size_t mask = edges_.size() - 1;
  for (size_t slot = slot_of(key, mask); edges_[slot].key != 0; slot = (slot + 1) & mask) {
    if (edges_[slot].key == key) return edges_[slot].node;
  }
  return 0;
}

void Unigram::grow() {
  std::vector<Edge> old(edges_.size() * 2);
  std::swap(old, edges_);
  const size_t mask = edges_.size() - 1;
  for (const Edge& edge : old) {
    if (edge.key == 0) continue;
    size_t slot = slot_of(edge.key, mask);
    while (edges_[slot].key != 0) slot = (slot + 1) & mask;
    edges_[slot] = edge;
  }
}

void Unigram::insert(std::string_view token, int32_t id) {
  uint32_t node = 0;
  for (const char c : token) {
    uint32_t next = child(node, static_cast<uint8_t>(c));
    if (next == 0) {
      if (id_at_.size() >= kMaxNodes - 1)
        throw Error(fmt::format("the vocabulary of the Unigram model needs more than {} nodes", kMaxNodes));
      next = static_cast<uint32_t>(id_at_.size());
      id_at_.push_back(-1);
      if (2 * ++used_ > edges_.size()) grow();
      const uint32_t key = (node << 8 | static_cast<uint8_t>(c)) + 1;
      const size_t mask = edges_.size() - 1;
      size_t slot = slot_of(key, mask);
      while (edges_[slot].key != 0) slot = (slot + 1) & mask;
      edges_[slot] = {key, next};
    }
    node = next;
  }
  if (node != 0) id_at_[node] = id;
}

// One token of the path: known, or an unknown stretch as bytes, or unk.
void Unigram::emit(std::string_view text, std::vector<int32_t>& out) const {
  if (const int32_t known = find(text); known >= 0) return out.push_back(known);
  if (byte_fallback_ &&
      std::all_of(text.begin(), text.end(), [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; })) {
    for (const char c : text) out.push_back(byte_ids_[static_cast<uint8_t>(c)]);
    return;
  }
  if (unk_) out.push_back(*unk_);
}

void Unigram::encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const {
  auto& nodes = memory.nodes;
  nodes.assign(word.size() + 1, {0.0, -1, 0});
  const auto offer = [&](size_t end, size_t start, double score, int32_t id) {
    auto& node = nodes[end];
    if (node.start < 0 || score > node.score) node = {score, static_cast<int64_t>(start), id};
  };
  for (size_t start = 0, next = 0; start < word.size(); start = next) {
    next_code(word, next);
    const double before = nodes[start].score;
    bool single = false;
    uint32_t node = 0;
    for (size_t at = start; at < word.size();) {
      node = child(node, static_cast<uint8_t>(word[at++]));
      if (node == 0) break;
      const int32_t id = id_at_[node];
      if (id < 0) continue;
      offer(at, start, scores_[static_cast<size_t>(id)] + before, id);
      single = single || at == next;
    }
    if (single) continue;
    if (!unk_) {
      throw RequestError(RequestError::Kind::kValidation,
                         "the text has a character that the tokenizer does not know, and its vocabulary has no unk_id");
    }
    offer(next, start, unk_score_ + before, *unk_);
  }
  // Back along the best path: ends of its tokens, unknown neighbours joined.
  auto& ends = memory.ends;
  ends.clear();
  bool after_unk = false;
  for (size_t end = word.size(); end > 0;) {
    const auto& node = nodes[end];
    const bool unk = fuse_unk_ && unk_ && node.id == *unk_;
    if (!(unk && after_unk)) ends.push_back(static_cast<int64_t>(end));
    after_unk = unk;
    end = static_cast<size_t>(node.start);
  }
  size_t begin = 0;
  for (auto it = ends.rbegin(); it != ends.rend(); ++it) {
    const size_t end = static_cast<size_t>(*it);
    const auto& node = nodes[end];
    const bool whole = static_cast<size_t>(node.start) == begin && !(unk_ && node.id == *unk_);
    whole ? out.push_back(node.id) : emit(word.substr(begin, end - begin), out);
    begin = end;
  }
}

}  // namespace sluice
