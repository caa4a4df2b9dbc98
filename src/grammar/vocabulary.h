// SPDX-License-Identifier: Apache-2.0
// The tokens of a model as byte strings, laid out for walking them beside an automaton. Immutable; shared by threads.
#pragma once

#include <bitset>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "grammar/char_table.h"
#include "grammar/token_tree.h"

namespace sluice::grammar {

class Vocabulary {
 public:
  // `texts` by id; an empty one never comes (special tokens). `ends` are the ids that end an answer.
  Vocabulary(std::vector<std::string> texts, std::vector<int32_t> ends);

  size_t size() const { return texts_.size(); }
  size_t words() const { return (texts_.size() + 31) / 32; }  // of a mask
  const std::string& text(int32_t id) const { return texts_[static_cast<size_t>(id)]; }
  const std::vector<int32_t>& ends() const { return ends_; }
  bool is_end(int32_t id) const;
  const std::bitset<256>& spelled() const { return spelled_; }  // bytes that are tokens by themselves

  const TokenTree& all() const { return all_; }
  // Made on first use; the recent ones are kept.
  std::shared_ptr<const CharTable> chars(const std::vector<CodeRange>& ranges) const;

 private:
  std::vector<std::string> texts_;
  std::vector<int32_t> ends_;
  std::bitset<256> spelled_;
  std::vector<int32_t> sorted_;  // ids by text
  TokenTree all_;
  mutable std::mutex mutex_;                                                                       // the field below
  mutable std::list<std::pair<std::vector<CodeRange>, std::shared_ptr<const CharTable>>> tables_;  // the latest first
};

}  // namespace sluice::grammar
