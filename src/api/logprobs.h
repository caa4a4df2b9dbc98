// SPDX-License-Identifier: Apache-2.0
// Tokens with their log probabilities, as OpenAI's chat and Ollama list them.
#pragma once

#include <cstddef>
#include <string>

#include "engine/request.h"

namespace sluice {

// As vLLM: minus infinity has no place in JSON.
float floored_logprob(float logprob);
// [{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}]}]
void append_logprobs(std::string& out, const TokenInfo* tokens, size_t count);

}  // namespace sluice
