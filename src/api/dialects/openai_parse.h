// SPDX-License-Identifier: Apache-2.0
// Bodies of the OpenAI routes, as vLLM, TGI and FastChat read them.
#pragma once

#include <string>
#include <vector>

#include "api/http.h"
#include "api/service.h"
#include "api/tools.h"

namespace sluice::openai {

// Whose server the client expects behind a route that several systems share.
enum class Manner { kVllm, kTgi, kFastChat };

// TGI's own clients say so, by the model's name, their user agent, or members that only TGI has.
bool expects_tgi(const Headers& headers, const BodyOutline& body);

// A chat or completions request, ready for the engine.
struct Call {
  Manner manner = Manner::kVllm;
  bool chat = false;
  bool stream = false, include_usage = false;
  bool continuous_usage = false;          // every chunk carries the usage so far
  bool logprobs = false;                  // asked for
  int32_t top = 0;                        // alternatives in logprobs
  int32_t prompt_top = -1;                // prompt_logprobs: alternatives per prompt token; -1: not asked for
  bool tokens_by_id = false;              // in logprobs, "token_id:" and the number stand for a token's text
  bool token_ids = false;                 // those of prompt and answer are told
  bool echo = false;                      // the prompt, of a chat the assistant's last message, comes back in front
  bool only_prompt = false;               // echo with max_tokens 0: the generated token is dropped
  int32_t n = 1;                          // choices per prompt
  ToolUse tools;                          // calls to look for in the answers
  std::vector<GenerateRequest> requests;  // one per prompt
  std::vector<std::string> prompts;       // their texts, with echo
  std::vector<std::vector<int32_t>> prompt_ids;  // with token_ids
};

// Each throws RequestError: kMalformed, kValidation with the field as param(), kUnknownModel, kTemplate.
Call read_chat(const HttpRequest& request, const Service& service, Manner manner);
Call read_completion(const HttpRequest& request, const Service& service, Manner manner);
// The prompt of a chat body as text.
std::string render_chat(const JsonView& body, const Service& service, const ToolUse& tools);
// Whether the name stands for what is served. TGI's clients send "tgi" and "dummy" for that.
void check_model(const JsonView& body, const ModelFacts& facts);

// The body of a request that must be JSON.
JsonBody parse(const HttpRequest& request);

}  // namespace sluice::openai
