// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizer of a tokenizer.json: cuts a text into pieces and may rewrite them. Immutable after loading.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/component.h"

namespace sluice {

// A text under way and the pieces it is cut into, in order; what lies between them is dropped.
struct Pieces {
  struct Piece {
    size_t begin, end;
    bool at_start;  // the piece begins where the user's text begins
  };
  std::string text;
  std::vector<Piece> list;
  std::string_view view(const Piece& piece) const {
    return std::string_view(text).substr(piece.begin, piece.end - piece.begin);
  }
  // Working memory of the stages.
  struct Span {
    size_t begin, end;
    bool match;
  };
  std::vector<Span> spans;
  std::vector<Piece> next;
  std::string rewritten;
};

class PreTokenizer {
 public:
  PreTokenizer() = default;  // one piece
  explicit PreTokenizer(const ComponentJson& json);
  void apply(Pieces& pieces) const;  // no piece in the result is empty

  // A byte-level map as the last step may be left to the model, which then gets bytes.
  bool ends_with_byte_map() const { return maps_bytes_last_; }
  void drop_byte_map();

 private:
  using Stage = std::function<void(Pieces&)>;
  void add(const ComponentJson& json);
  std::vector<Stage> stages_;
  bool maps_bytes_last_ = false;
};

}  // namespace sluice
