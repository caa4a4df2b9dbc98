// SPDX-License-Identifier: Apache-2.0
// Functions that a model may call: what a request offers, how the model is told of them, and the calls in its answer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/json.h"
#include "text/chat_template.h"

namespace sluice {

struct ToolUse {
  enum class Choice {
    kNone,      // the answer is text
    kAuto,      // the model decides
    kRequired,  // at least one call
    kNamed      // a call of `named`, whose arguments are the whole answer
  };
  Choice choice = Choice::kNone;
  std::string named;
  std::vector<std::string> names;  // of all functions offered
  Value list;                      // as sent: [{"type": "function", "function": {"name", "description", "parameters"}}]
};

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON
};

// OpenAI's `tools` and `tool_choice`. Throws RequestError(kValidation).
ToolUse read_tools(const JsonView& tools, const JsonView& choice);
// Through the template's own variable where it has one, else as text at the end of the last message: `prompt`, or a
// wording of ours, and the functions as JSON.
void show_tools(ChatInput& input, const ToolUse& use, const ChatTemplate& chat, const std::string& prompt);
// The schema that an answer must fit, for kRequired and kNamed.
std::string tool_schema(const ToolUse& use);

// The calls in a whole answer, in the notations of Hermes and Qwen, Mistral, and Llama 3; empty when it is text.
std::vector<ToolCall> find_calls(const ToolUse& use, std::string_view answer);
// Whether an answer that begins so may still turn out to be a call.
bool may_be_call(std::string_view beginning);

}  // namespace sluice
