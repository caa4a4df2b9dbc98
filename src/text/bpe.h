// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding as tokenizers' BPE model runs it: lowest rank first, leftmost on ties. Immutable after loading.
#pragma once

#include "text/token_model.h"

namespace sluice {

class Bpe : public TokenModel {
 public:
  // `json`: the "model" object. Throws Error when merges name tokens that the vocabulary lacks.
  explicit Bpe(const ComponentJson& json);

  void encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const override;
  size_t word_end(std::string_view piece, size_t begin) const override;
  bool read_bytes() override;

 private:
  struct Rule {
    uint32_t rank;
    int32_t id;
  };
  void read_merges(const ComponentJson& json);
  void find_boundary();
  const Rule* rule(int32_t left, int32_t right) const;
  void split(std::string_view word, Memory& memory) const;
  void merge_short(Memory& memory) const;
  void merge_long(Memory& memory) const;

  struct Slot {
    uint64_t pair = ~0ull;  // left id << 32 | right id
    Rule rule{0, 0};
  };
  std::vector<Slot> rules_;        // open addressing
  std::vector<int32_t> code_ids_;  // ids of one-character tokens below U+0800, -1 for none
  int32_t byte_ids_[256];          // of <0xHH>, -1 for none
  int32_t mapped_ids_[256];        // of the character that stands for a byte, -1 for none
  int32_t unk_ = -1;
  std::string prefix_, suffix_;  // continuing_subword_prefix, end_of_word_suffix
  bool byte_fallback_ = false, fuse_unk_ = false, ignore_merges_ = false;
  bool bytes_ = false;         // words are bytes, not mapped yet
  bool cuts_at_mark_ = false;  // no token goes on behind another character with U+2581
};

}  // namespace sluice
