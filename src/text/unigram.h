// SPDX-License-Identifier: Apache-2.0
// The Unigram model as the `tokenizers` package runs it: the best path over scores in double precision, the longer last
// token on ties, unknown characters ten below the lowest score and joined. Immutable after loading.
#pragma once

#include "text/token_model.h"

namespace sluice {

class Unigram : public TokenModel {
 public:
  explicit Unigram(const ComponentJson& json);
  void encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const override;

 private:
  // A trie whose edges are in one table: (node, byte) to node.
  struct Edge {
    uint32_t key = 0;  // node << 8 | byte, plus one; 0: empty
    uint32_t node = 0;
  };
  uint32_t child(uint32_t node, uint8_t byte) const;  // 0 when there is none
  void insert(std::string_view token, int32_t id);
  void grow();
  void emit(std::string_view text, std::vector<int32_t>& out) const;

  std::vector<Edge> edges_;
  size_t used_ = 0;
  std::vector<int32_t> id_at_;  // by node, -1 where no token ends
  std::vector<double> scores_;  // by id
  std::optional<int32_t> unk_;
  double unk_score_ = 0;
  int32_t byte_ids_[256];  // of <0xHH>, -1 for none
  bool byte_fallback_ = false, fuse_unk_ = true;
};

}  // namespace sluice
