// SPDX-License-Identifier: Apache-2.0
// Tokens with their log probabilities, as OpenAI's chat and Ollama list them.
#pragma once

#include <cstddef>
#include <string>

#include "engine/request.h"

namespace sluice {

// As vLLM: minus infinity has no place in JSON.
float floored_logprob(float logprob);
// [{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}]}]; `by_id`: tokens as token_name()
void append_logprobs(std::string& out, const TokenInfo* tokens, size_t count, bool by_id = false);
// Its text, or "token_id:" and the number, as vLLM's return_tokens_as_token_ids asks.
std::string token_name(const TokenInfo& token, bool by_id);

}  // namespace sluice
