// SPDX-License-Identifier: Apache-2.0
// The decoder chain of a tokenizer.json, compiled to a table: what each token contributes to the text. Owned by the
// Tokenizer, shared by every Detokenizer, immutable after loading.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/component.h"

namespace sluice {

struct DecodeTable {
  // How bytes that are not UTF-8 come out.
  enum class Bytes {
    kNone,       // every token is text
    kByteLevel,  // tokens are bytes; one U+FFFD for each maximal ill-formed part
    kFallback,   // runs of <0xHH> tokens; one U+FFFD per byte of a run that is ill-formed
  };
  Bytes bytes = Bytes::kNone;
  std::string separator;  // between tokens, only without a decoder
  std::string strip;      // character removed from the start of the text, up to strip_left times
  int32_t strip_left = 0;
  bool first_differs = false;  // Metaspace, WordPiece: the first token of a text shows no space before it
  bool last_differs = false;   // BPEDecoder: the last token of a text shows no space after it

  void add(std::string_view text, std::string_view as_first, std::string_view as_last, bool is_byte, bool special);
  size_t size() const { return special.size(); }
  std::string_view text(size_t id) const { return std::string_view(blob).substr(begin[id], begin[id + 1] - begin[id]); }
  std::string_view first_text(size_t id) const {
    if (!first_differs) return text(id);
    return std::string_view(first_blob).substr(first_begin[id], first_begin[id + 1] - first_begin[id]);
  }
  std::string_view last_text(size_t id) const {
    if (!last_differs) return text(id);
    return std::string_view(last_blob).substr(last_begin[id], last_begin[id + 1] - last_begin[id]);
  }

  std::string blob, first_blob, last_blob;
  std::vector<uint32_t> begin{0}, first_begin{0}, last_begin{0};
  std::vector<uint8_t> is_byte;  // by id: the token is one byte of a fallback run
  std::vector<uint8_t> special;  // by id: left out when special tokens are skipped
};

// `tokens` and `special` by id. `json` may be null: no decoder. Throws Error for a chain that cannot be streamed.
DecodeTable compile_decoder(const Value* json, const std::string& where, const std::vector<std::string>& tokens,
                            const std::vector<uint8_t>& special);

}  // namespace sluice
