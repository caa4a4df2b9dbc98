// SPDX-License-Identifier: Apache-2.0
// Bodies of the OpenAI routes, as vLLM reads them.
#pragma once

#include <string>
#include <vector>

#include "api/http.h"
#include "api/service.h"

namespace sluice::openai {

// A chat or completions request, ready for the engine.
struct Call {
  bool chat = false;
  bool stream = false, include_usage = false;
  bool logprobs = false;                  // asked for
  bool echo = false;                      // completions: the prompt comes back in front
  bool only_prompt = false;               // echo with max_tokens 0: the generated token is dropped
  int32_t n = 1;                          // choices per prompt
  std::vector<GenerateRequest> requests;  // one per prompt
  std::vector<std::string> prompts;       // their texts, with echo
};

// Each throws RequestError: kMalformed, kValidation with the field as param(), kUnknownModel, kTemplate.
Call read_chat(const HttpRequest& request, const Service& service);
Call read_completion(const HttpRequest& request, const Service& service);

}  // namespace sluice::openai
