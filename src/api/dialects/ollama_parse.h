// SPDX-License-Identifier: Apache-2.0
// Bodies of Ollama's own routes.
#pragma once

#include <string>

#include "api/fields.h"
#include "api/service.h"
#include "api/tools.h"

namespace sluice::ollama {

struct Call {
  bool chat = false;
  bool stream = true;
  bool load = false;           // nothing to generate: the client only wants the model to be there
  bool unload = false;         // load with keep_alive 0
  bool logprobs = false;       // pieces carry their tokens
  bool tells_context = false;  // the reply repeats the conversation as token ids
  bool thinks = true;          // the reply tells what an answer in channels did not mean for the user
  std::string effort;          // the template's reasoning_effort
  std::string model;           // as sent
  ToolUse tools;               // calls to look for in the answer
  GenerateRequest request;
};

// Whether `name`, with or without the tag :latest, is what is served.
bool is_served(const ModelFacts& facts, const std::string& name);
// The member `model`, or the older `name`. Throws RequestError(kValidation, kUnknownModel).
std::string read_model(const JsonView& body, const ModelFacts& facts);

Call read_generate(const JsonView& body, const Service& service);
Call read_chat(const JsonView& body, const Service& service);

}  // namespace sluice::ollama
