// SPDX-License-Identifier: Apache-2.0
// Fill in the middle: prompts for the text between two others, for vocabularies that have tokens for it.
#pragma once

#include "text/tokenizer.h"

namespace sluice {

struct Infill {
  std::vector<int32_t> prompt;  // with add_special BOS included where the tokenizer adds one
  std::vector<int32_t> stops;   // tokens that end the middle, besides the model's eos
};

// nullopt where the vocabulary has no such tokens.
std::optional<Infill> infill(const Tokenizer& tokenizer, std::string_view prefix, std::string_view suffix,
                             bool add_special = true);

}  // namespace sluice
