// SPDX-License-Identifier: Apache-2.0
#include "api/prompt.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/fields.h"
#include "base/error.h"
#include "text/infill.h"

namespace sluice {
namespace {

using Kind = JsonView::Kind;

Value read_content(const JsonView& content, bool takes_parts) {
  if (content.unset()) return Value("");
  if (content.kind() == Kind::kString) return content.value();
  if (content.kind() != Kind::kArray) wrong_type("messages.content", content, "a string or a list of parts");
  std::string joined;
  for (size_t i = 0; i < content.size(); ++i) {
    JsonView part = content.at(i);
    std::string_view type = part.kind() == Kind::kString ? "text" : part["type"].string_view();
    if (type != "text")
      invalid_field("messages", fmt::format("messages: a content part of type \"{}\" is not supported; this server "
                                            "takes text",
                                            type));
    JsonView text = part.kind() == Kind::kString ? part : part["text"];
    if (text.kind() != Kind::kString) wrong_type("messages.content.text", text, "a string");
    if (i > 0) joined += '\n';
    joined += text.string_view();
  }
  return takes_parts ? content.value() : Value(std::move(joined));
}

// Templates write the arguments of a call as they are given; clients send them as JSON inside a string.
Value read_tool_calls(const JsonView& calls) {
  if (calls.kind() != Kind::kArray) return calls.value();
  List list;
  for (size_t i = 0; i < calls.size(); ++i) {
    JsonView call = calls.at(i);
    if (call.kind() != Kind::kObject) wrong_type("messages.tool_calls", call, "an object");
    Dict out;
    for (const std::string& key : call.keys()) {
      if (key != "function") {
        out.set(key, call[key].value());
        continue;
      }
      Dict function;
      for (const std::string& name : call[key].keys()) {
        JsonView value = call[key][name];
        if (name != "arguments" || value.kind() != Kind::kString) {
          function.set(name, value.value());
          continue;
        }
        try {
          function.set(name, JsonBody(value.string_view()).root().value());
        } catch (const RequestError&) {
          invalid_field("messages", "messages: the arguments of a tool call are not JSON");
        }
      }
      out.set(key, Value(std::move(function)));
    }
    list.push_back(Value(std::move(out)));
  }
  return Value(std::move(list));
}

}  // namespace

Value read_messages(const JsonView& messages, const ChatTemplate& chat) {
  if (messages.unset()) invalid_field("messages", "messages: field required");
  if (messages.kind() != Kind::kArray) wrong_type("messages", messages, "a list of messages");
  if (messages.size() == 0) invalid_field("messages", "messages: at least one is needed");
  const bool takes_parts = chat.takes_content_parts();
  List list;
  for (size_t i = 0; i < messages.size(); ++i) {
    JsonView message = messages.at(i);
    if (message.kind() != Kind::kObject) wrong_type("messages", message, "a message with role and content");
    if (message["role"].kind() != Kind::kString) wrong_type("messages.role", message["role"], "a string");
    Dict dict;
    for (const std::string& key : message.keys()) {
      if (key == "content")
        dict.set(key, read_content(message[key], takes_parts));
      else if (key == "tool_calls")
        dict.set(key, read_tool_calls(message[key]));
      else
        dict.set(key, message[key].value());
    }
    if (message["content"].missing()) dict.set("content", Value(""));
    list.push_back(Value(std::move(dict)));
  }
  return Value(std::move(list));
}

const ChatTemplate& chat_of(const Service& service, const std::string& instead) {
  if (service.chat == nullptr)
    throw RequestError(RequestError::Kind::kTemplate,
                       "this model has no chat template; " + instead +
                           ", or start the server with --chat-template (a file, or a name such as chatml)",
                       "messages");
  return *service.chat;
}

bool shows_tools(const ChatTemplate& chat) {
  const auto names = chat.names();
  if (std::find(names.begin(), names.end(), "tool_use") != names.end()) return true;
  return chat.source().find("tools") != std::string::npos;
}

bool fill_in(GenerateRequest& request, const Tokenizer& tokenizer, std::string_view prefix, std::string_view suffix,
             bool add_special) {
  const auto made = infill(tokenizer, prefix, suffix, add_special);
  if (!made) return false;
  request.prompt.insert(request.prompt.end(), made->prompt.begin(), made->prompt.end());
  request.stop_ids.insert(request.stop_ids.end(), made->stops.begin(), made->stops.end());
  return true;
}

void fit_prompt(GenerateRequest& request, std::optional<int64_t> wanted, const Limits& limits) {
  const auto input = static_cast<int64_t>(request.prompt.size());
  if (input == 0) invalid_field("prompt", "the prompt has no tokens; send some text");
  const int64_t most = std::min(limits.max_input_tokens, limits.max_total_tokens - 1);
  if (input > most)
    invalid_field("prompt",
                  fmt::format("the prompt has {} tokens and this server takes at most {}; shorten it", input, most));
  if (wanted && *wanted < 1)
    invalid_field("max_tokens", fmt::format("expected at least 1 token to generate, found {}", *wanted));
  const int64_t room = limits.max_total_tokens - input;
  request.max_new_tokens = static_cast<int32_t>(std::min(wanted.value_or(room), room));
}

void set_temperature(SamplingParams& sampling, double temperature, const std::string& name) {
  if (!(temperature >= 0)) invalid_field(name, fmt::format("{} must be non-negative, got {}.", name, temperature));
  sampling.greedy = temperature < 1e-5;
  sampling.temperature = sampling.greedy ? 1.0f : static_cast<float>(temperature);
}

}  // namespace sluice
