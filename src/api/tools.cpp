// SPDX-License-Identifier: Apache-2.0
#include "api/tools.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/fields.h"
#include "api/prompt.h"
#include "base/error.h"

namespace sluice {
namespace {

using Kind = JsonView::Kind;
constexpr std::string_view kOpen = "<tool_call>", kClose = "</tool_call>";
constexpr std::string_view kMarks[] = {kOpen, "[TOOL_CALLS]", "<|python_tag|>"};

std::string_view trimmed(std::string_view text) {
  const size_t from = text.find_first_not_of(" \t\r\n");
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(" \t\r\n") - from + 1);
}

// {"name", "arguments" or "parameters"} of a function that was offered.
bool add_call(const ToolUse& use, const JsonView& node, std::vector<ToolCall>& out) {
  const std::string name(node["name"].string_view());
  if (std::find(use.names.begin(), use.names.end(), name) == use.names.end()) return false;
  JsonView arguments = node["arguments"].missing() ? node["parameters"] : node["arguments"];
  if (arguments.missing()) {
    out.push_back({name, "{}"});
  } else if (arguments.kind() == Kind::kString) {
    out.push_back({name, std::string(arguments.string_view())});
  } else if (arguments.kind() == Kind::kObject) {
    out.push_back({name, arguments.dump()});
  } else {
    return false;
  }
  return true;
}

// One call or a list of them as JSON; false when it is anything else.
bool add_json(const ToolUse& use, std::string_view text, std::vector<ToolCall>& out) {
  text = trimmed(text);
  if (text.empty() || (text[0] != '{' && text[0] != '[')) return false;
  try {
    const JsonBody body(text);
    const JsonView root = body.root();
    if (root.kind() == Kind::kObject) return add_call(use, root, out);
    for (size_t i = 0; i < root.size(); ++i)
      if (!add_call(use, root.at(i), out)) return false;
    return root.size() > 0;
  } catch (const RequestError&) {
    return false;
  }
}

}  // namespace

ToolUse read_tools(const JsonView& tools, const JsonView& choice) {
  ToolUse use;
  const bool forced = !choice.unset() && choice.string_view() != "none" && choice.string_view() != "auto";
  if (tools.unset() || (tools.kind() == Kind::kArray && tools.size() == 0)) {
    if (forced) invalid_field("tool_choice", "tool_choice: there are no tools to choose from; send `tools`");
    return use;
  }
  if (tools.kind() != Kind::kArray || tools.size() > 128) wrong_type("tools", tools, "a list of at most 128 functions");
  for (size_t i = 0; i < tools.size(); ++i) {
    JsonView tool = tools.at(i);
    if (tool["type"].string_view() != "function" && !tool["type"].unset())
      invalid_field("tools", fmt::format("tools: expected the type \"function\", found {}", tool["type"].describe()));
    JsonView function = tool["function"];
    if (function.kind() != Kind::kObject) wrong_type("tools.function", function, "an object with name and parameters");
    if (function["name"].string_view().empty()) wrong_type("tools.function.name", function["name"], "a name");
    if (!function["parameters"].unset() && function["parameters"].kind() != Kind::kObject)
      wrong_type("tools.function.parameters", function["parameters"], "a JSON schema");
    use.names.emplace_back(function["name"].string_view());
  }
  use.list = tools.value();
  use.choice = ToolUse::Choice::kAuto;
  if (choice.unset() || choice.string_view() == "auto") return use;
  std::string name;
  if (choice.kind() == Kind::kObject) {
    name = choice["function"]["name"].string_view();
  } else if (choice.string_view() == "none") {
    use.choice = ToolUse::Choice::kNone;
    return use;
  } else if (choice.string_view() == "required" || choice.string_view() == "any") {
    use.choice = ToolUse::Choice::kRequired;
    return use;
  } else {
    name = choice.string_view();
  }
  if (std::find(use.names.begin(), use.names.end(), name) == use.names.end())
    invalid_field("tool_choice", fmt::format("tool_choice: expected none, auto, required or one of [{}], found {}",
                                             fmt::join(use.names, ", "), choice.dump().substr(0, 120)));
  use.choice = ToolUse::Choice::kNamed;
  use.named = name;
  return use;
}

void show_tools(ChatInput& input, const ToolUse& use, const ChatTemplate& chat, const std::string& prompt) {
  if (use.names.empty() || use.choice == ToolUse::Choice::kNone) return;
  if (shows_tools(chat)) {
    input.tools = use.list;
    return;
  }
  std::string text = prompt;
  if (text.empty())
    text = use.choice == ToolUse::Choice::kNamed
               ? fmt::format("Answer with the arguments of {} as one JSON object. The functions are:", use.named)
               : "To use a function, answer with {\"name\": ..., \"arguments\": {...}} and nothing else. The functions "
                 "are:";
  text = "\n\n" + text + "\n" + use.list.dump_json();
  List messages = input.messages.as_list();
  Dict last = messages.back().as_dict();
  const Value* content = last.find("content");
  if (content == nullptr || !content->is_string()) {
    Dict part;
    part.set("type", Value("text"));
    part.set("text", Value(text));
    List parts = content != nullptr && content->is_list() ? content->as_list() : List{};
    parts.push_back(Value(std::move(part)));
    last.set("content", Value(std::move(parts)));
  } else {
    last.set("content", Value(content->as_string() + text));
  }
  messages.back() = Value(std::move(last));
  input.messages = Value(std::move(messages));
}

std::string tool_schema(const ToolUse& use) {
  std::string any;
  for (const Value& tool : use.list.as_list()) {
    const Value* function = tool.find("function");
    const std::string& name = function->find("name")->as_string();
    const Value* parameters = function->find("parameters");
    std::string schema =
        parameters == nullptr || parameters->is_null() ? "{\"type\":\"object\"}" : parameters->dump_compact();
    if (use.choice == ToolUse::Choice::kNamed) {
      if (name == use.named) return schema;
      continue;
    }
    if (!any.empty()) any += ',';
    any += "{\"type\":\"object\",\"properties\":{\"name\":{\"const\":";
    append_json_string(any, name);
    any += "},\"arguments\":" + schema + "},\"required\":[\"name\",\"arguments\"],\"additionalProperties\":false}";
  }
  return "{\"type\":\"array\",\"minItems\":1,\"items\":{\"anyOf\":[" + any + "]}}";
}

std::vector<ToolCall> find_calls(const ToolUse& use, std::string_view answer) {
  std::vector<ToolCall> out;
  if (use.choice == ToolUse::Choice::kNone) return out;
  if (use.choice == ToolUse::Choice::kNamed) return {{use.named, std::string(answer)}};
  std::string_view text = trimmed(answer);
  if (text.find(kOpen) != std::string_view::npos) {
    for (size_t at = text.find(kOpen); at != std::string_view::npos; at = text.find(kOpen, at)) {
      at += kOpen.size();
      const size_t end = std::min(text.find(kClose, at), text.size());
      if (!add_json(use, text.substr(at, end - at), out)) return {};
    }
    return out;
  }
  for (const std::string_view mark : kMarks)
    if (text.starts_with(mark)) text.remove_prefix(mark.size());
  if (!add_json(use, text, out)) out.clear();
  return out;
}

bool may_be_call(std::string_view beginning) {
  const std::string_view text = trimmed(beginning);
  if (text.empty()) return true;
  if (text[0] == '{' || text[0] == '[') return true;
  return std::any_of(std::begin(kMarks), std::end(kMarks), [&](std::string_view mark) {
    return text.starts_with(mark.substr(0, std::min(mark.size(), text.size())));
  });
}

}  // namespace sluice
