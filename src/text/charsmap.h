// SPDX-License-Identifier: Apache-2.0
// SentencePiece's compiled normalisation ("Precompiled"), applied as the `tokenizers` package does: grapheme cluster by
// grapheme cluster, the shortest known beginning of a short cluster standing for all of it. Immutable after loading.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

class Charsmap {
 public:
  // The bytes of precompiled_charsmap: size of the trie, the trie (Darts), the replacements. Throws Error with the
  // reason, without a place.
  explicit Charsmap(std::string_view bytes);
  std::string apply(std::string_view text) const;

 private:
  // What replaces the text that begins like this; false when nothing does.
  bool look_up(std::string_view text, std::string_view& replacement) const;

  std::vector<uint32_t> trie_;
  std::string replacements_;  // each ends with NUL
  bool changed_[128] = {};    // by ASCII character
};

}  // namespace sluice
