// SPDX-License-Identifier: Apache-2.0
// The content of a SentencePiece model file (a protocol buffer).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct SentencePieceFile {
  enum PieceType : uint64_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  enum ModelType : uint64_t { kUnigram = 1, kBpe, kWord, kChar };
  struct Piece {
    std::string text;
    float score = 0.0f;
    uint64_t type = kNormal;
  };
  // With the format's defaults.
  std::vector<Piece> pieces;
  uint64_t model_type = kUnigram;
  bool space_as_suffix = false;
  int64_t unk = 0, bos = 1, eos = 2, pad = -1;
  std::string charsmap;  // empty: text stays as it is
  bool dummy_prefix = true, remove_spaces = true, escape_spaces = true;

  // `origin` names the file in errors. The pieces are UTF-8, not empty, of known types other than UNUSED; there is at
  // least one and `unk` is one of them. Throws Error.
  static SentencePieceFile parse(std::string_view bytes, const std::string& origin);
  const std::string& text(int64_t id) const { return pieces[static_cast<size_t>(id)].text; }
  bool holds(int64_t id) const { return id >= 0 && id < static_cast<int64_t>(pieces.size()); }
};

}  // namespace sluice
