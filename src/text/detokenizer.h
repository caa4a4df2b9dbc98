// SPDX-License-Identifier: Apache-2.0
// Tokens to text, one at a time. Owned by one sequence's output path; the Tokenizer outlives it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "text/tokenizer.h"

namespace sluice {

// The concatenated output equals Tokenizer::decode of the same ids, however it is cut. One exception: when a run of
// <0xHH> tokens starts with well-formed characters and later breaks, those characters have been sent already, while
// decode (like the `tokenizers` package) turns the whole run into U+FFFD.
//
// With a prompt, the output is decode(prompt + generated) less decode(prompt): the leading space of the first generated
// token stays, and a character that the prompt leaves incomplete is completed in the output.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true, std::span<const int32_t> prompt = {});

  // Appends the text that is now certain; valid UTF-8. Holds back at most the 3 bytes of an incomplete character, and
  // with BPEDecoder the space after the last token.
  void append(int32_t id, std::string& out);
  // No token follows: the incomplete tail comes out as U+FFFD. The object may be reused after reset().
  void finish(std::string& out);
  void reset(std::span<const int32_t> prompt = {});
  size_t held() const { return n_held_; }  // bytes held back

 private:
  friend class Tokenizer;
  Detokenizer(const DecodeTable& table, bool skip_special, bool whole_runs);
  void append_bytes(std::string_view bytes, std::string& out);
  void emit(std::string_view text, std::string& out);
  void end_run(std::string& out);
  void end_token(std::string_view form, std::string& out);

  const DecodeTable* table_;
  bool skip_special_;
  bool whole_runs_ = false;                // hold whole runs of byte tokens, as offline decode does
  bool first_token_ = true;                // no token has contributed yet
  int32_t pending_ = -1;                   // the last token, where it may still turn out not to be the text's last
  int32_t strip_left_ = 0;                 // characters that may still be stripped from the start of the text
  bool in_run_ = false, bad_run_ = false;  // inside a run of <0xHH> tokens; the run is already known to be ill-formed
  uint8_t n_held_ = 0;
  char held_bytes_[4] = {};
  std::string run_;  // only with whole_runs_
};

}  // namespace sluice
