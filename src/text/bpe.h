// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding as tokenizers' BPE model runs it: lowest rank first, leftmost on ties. Immutable after loading.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/component.h"

namespace sluice {

class Bpe {
 public:
  // `json`: the "model" object. Throws Error when merges name tokens that the vocabulary lacks.
  explicit Bpe(const ComponentJson& json);

  // Working memory of one encode call; remembers words so that repeated ones cost a lookup.
  struct Scratch {
    struct Symbol {
      int32_t id, previous, next;  // positions of the neighbours, -1 at the ends; id -1: merged away
    };
    struct Merge {
      uint32_t rank;
      int32_t at, id;             // position of the left symbol, id of the result
      int32_t left_id, right_id;  // as they were: a changed neighbour makes the entry stale
    };
    std::vector<Symbol> symbols;
    std::vector<Merge> heap;
    std::vector<int32_t> stored;
    struct Range {
      uint32_t begin, size;
    };
    std::unordered_map<std::string, Range> words;
  };
  void encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

  std::optional<int32_t> id(std::string_view token) const;
  const std::vector<std::string>& tokens() const { return tokens_; }  // by id; empty where the vocabulary has a gap
  size_t size() const { return ids_.size(); }                         // entries of the vocabulary

 private:
  struct Rule {
    uint32_t rank;
    int32_t id;
  };
  const Rule* rule(int32_t left, int32_t right) const;
  void split(std::string_view word, Scratch& scratch) const;
  void merge_short(Scratch& scratch) const;
  void merge_long(Scratch& scratch) const;

  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  struct Slot {
    uint64_t pair = ~0ull;  // left id << 32 | right id
    Rule rule{0, 0};
  };
  std::vector<Slot> rules_;        // open addressing
  std::vector<int32_t> code_ids_;  // ids of one-character tokens below U+0800, -1 for none
  int32_t byte_ids_[256];          // of <0xHH>, -1 for none
  std::optional<int32_t> unk_;
  std::string prefix_, suffix_;  // continuing_subword_prefix, end_of_word_suffix
  bool byte_fallback_ = false, fuse_unk_ = false, ignore_merges_ = false;
};

}  // namespace sluice
