// SPDX-License-Identifier: Apache-2.0
// Answers in channels, as gpt-oss writes them (openai/harmony, docs/format.md): messages of a header and a body,
//   <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
// where a header with to=functions.NAME makes the body the arguments of a call.
#pragma once

#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace sluice {

// Whether the vocabulary has the tokens that such answers are made of.
bool speaks_channels(const Tokenizer& tokenizer);

// Takes the text of one answer apart, special tokens included, as it comes.
class ChannelReader {
 public:
  // Appends to `content` what the final channel says and calls in the notation of Hermes (<tool_call>), and to
  // `reasoning` what the other channels say. With `end` nothing is held back any more. An answer without any header is
  // content.
  void read(std::string_view text, bool end, std::string& content, std::string& reasoning);

 private:
  enum class Place { kHeader, kContent, kReasoning, kCall };
  void open(std::string_view header);
  void close(std::string& content);

  Place place_ = Place::kHeader;
  bool opened_ = false;  // a header has been read
  std::string held_;     // text that may go on as a marker; in a header, all of it
  std::string name_, arguments_;
};

}  // namespace sluice
