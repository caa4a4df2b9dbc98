// SPDX-License-Identifier: Apache-2.0
// Models that take a word as it stands: WordPiece (longest known beginning, then the longest known continuation) and
// WordLevel (the whole word). Immutable after loading.
#pragma once

#include "text/token_model.h"

namespace sluice {

class WordPiece : public TokenModel {
 public:
  explicit WordPiece(const ComponentJson& json);
  void encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const override;

 private:
  int32_t unk_ = 0;
  std::string prefix_;  // continuing_subword_prefix
  int64_t max_codes_ = 100;
  size_t longest_ = 0;  // bytes of the longest token
};

class WordLevel : public TokenModel {
 public:
  explicit WordLevel(const ComponentJson& json);
  void encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const override;

 private:
  std::optional<int32_t> unk_;
};

}  // namespace sluice
