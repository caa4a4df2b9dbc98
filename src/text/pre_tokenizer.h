// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizer of a tokenizer.json: cuts a text into pieces and may rewrite them. Immutable after loading.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "text/component.h"

namespace sluice {

struct Piece {
  std::string text;
  bool at_start = false;  // the piece begins where the user's text begins
};

class PreTokenizer {
 public:
  PreTokenizer() = default;  // one piece
  explicit PreTokenizer(const ComponentJson& json);
  void apply(std::vector<Piece>& pieces) const;  // no piece in the result is empty

 private:
  using Stage = std::function<void(Piece& piece, std::vector<Piece>& out)>;
  void add(const ComponentJson& json);
  std::vector<Stage> stages_;
};

}  // namespace sluice
