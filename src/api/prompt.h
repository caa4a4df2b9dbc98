// SPDX-License-Identifier: Apache-2.0
// From what clients send to prompt tokens: chat messages through the model's template, and the length they may have.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "api/json.h"
#include "api/service.h"

namespace sluice {

// A list of {"role", "content", ...}, content a string or a list of text parts. Throws RequestError(kValidation) naming
// `messages`.
Value read_messages(const JsonView& messages, const ChatTemplate& chat);

// The model's template. Throws RequestError(kTemplate) where it has none; `instead` says what to do then.
const ChatTemplate& chat_of(const Service& service, const std::string& instead);

// True when the model's template shows tools to the model by itself.
bool shows_tools(const ChatTemplate& chat);

// Adds the ids that ask for the text between `prefix` and `suffix`, and the tokens that end it. False where the model's
// vocabulary has no tokens for that.
bool fill_in(GenerateRequest& request, const Tokenizer& tokenizer, std::string_view prefix, std::string_view suffix,
             bool add_special);

// Checks the prompt and sets max_new_tokens: `wanted`, or all that is left where it names more or nothing.
// Throws RequestError(kValidation).
void fit_prompt(GenerateRequest& request, std::optional<int64_t> wanted, const Limits& limits);

// Temperature 0 means greedy here.
void set_temperature(SamplingParams& sampling, double temperature, const std::string& name);

}  // namespace sluice
