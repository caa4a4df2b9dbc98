// SPDX-License-Identifier: Apache-2.0
// The model of a tokenizer.json: pieces of text to ids. Immutable after loading.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/component.h"

namespace sluice {

class TokenModel {
 public:
  // Working memory of one encode call, used again by the next.
  struct Memory {
    struct Symbol {
      int32_t id, previous, next;  // positions of the neighbours, -1 at the ends; id -1: merged away
    };
    struct Merge {
      uint32_t rank;
      int32_t at, id;             // position of the left symbol, id of the result
      int32_t left_id, right_id;  // as they were: a changed neighbour makes the entry stale
    };
    struct Node {  // best path to a byte
      double score;
      int64_t start;  // of its last token, -1 when nothing ends here
      int32_t id;
    };
    std::vector<Symbol> symbols;
    std::vector<Merge> heap;
    std::vector<Node> nodes;
    std::vector<int64_t> ends;
    std::string text;
  };

  // "model" of a tokenizer.json. Throws Error naming what is wrong in it.
  static std::unique_ptr<TokenModel> load(const ComponentJson& json);
  virtual ~TokenModel() = default;

  virtual void encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const = 0;
  // Where a piece may be cut without changing its ids: the end of the part that begins at `begin`.
  virtual size_t word_end(std::string_view piece, size_t /*begin*/) const { return piece.size(); }
  // From now on words come as bytes, before the byte-level map. False when the model cannot read those.
  virtual bool read_bytes() { return false; }

  std::optional<int32_t> id(std::string_view token) const;
  const std::vector<std::string>& tokens() const { return tokens_; }  // by id; empty where the vocabulary has a gap
  size_t size() const { return size_; }                               // entries of the vocabulary

 protected:
  void read_vocab(const ComponentJson& json);    // "vocab" as an object of token to id
  void add(std::string_view token, int32_t id);  // a later one of the same text wins
  int32_t find(std::string_view token) const;    // -1 when absent

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  size_t size_ = 0;
};

}  // namespace sluice
