// SPDX-License-Identifier: Apache-2.0
#include "chat/conversation.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"

namespace sluice {
namespace {

Value message(const char* role, const std::string& content) {
  Dict out;
  out.set("role", role);
  out.set("content", content);
  return Value(std::move(out));
}

const std::string& text_of(const Value& message, std::string_view key) { return message.find(key)->as_string(); }

}  // namespace

void Conversation::set_system(std::string text) {
  system_ = std::move(text);
  reset();
}

void Conversation::reset() {
  messages_.clear();
  if (!system_.empty()) add("system", system_);
}

void Conversation::add(const char* role, const std::string& content) { messages_.push_back(message(role, content)); }

void Conversation::drop_last() {
  if (said() > 0) messages_.pop_back();
}

std::string Conversation::undo() {
  while (said() > 0) {
    const Value last = messages_.back();
    messages_.pop_back();
    if (text_of(last, "role") == "user") return text_of(last, "content");
  }
  return {};
}

void Conversation::save(const std::filesystem::path& path, const std::string& model) const {
  Dict out;
  out.set("model", model);
  out.set("messages", Value(messages_));
  replace_file(path, Value(std::move(out)).dump_json(1) + "\n", 0600);
}

void Conversation::load(const std::filesystem::path& path) {
  Value file;
  try {
    file = Value::parse_json(read_file(path));
  } catch (const RequestError& error) {
    throw Error(fmt::format("{} is not JSON: {}", path.string(), error.what()));
  }
  const Value* list = file.is_list() ? &file : file.find("messages");
  const auto refuse = [&](const std::string& what) {
    throw Error(fmt::format("{}: expected messages with role and content, found {}", path.string(), what));
  };
  if (list == nullptr || !list->is_list()) refuse("no list of messages");
  std::string system;
  List messages;
  for (const Value& entry : list->as_list()) {
    const Value *role = entry.find("role"), *content = entry.find("content");
    if (role == nullptr || !role->is_string()) refuse("a message without a role");
    if (content == nullptr || !content->is_string()) refuse("a message whose content is no text");
    if (messages.empty() && role->as_string() == "system") system = content->as_string();
    messages.push_back(message(role->as_string().c_str(), content->as_string()));
  }
  system_ = std::move(system);
  messages_ = std::move(messages);
}

}  // namespace sluice
