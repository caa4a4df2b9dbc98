// SPDX-License-Identifier: Apache-2.0
// tests/golden/text/templates.json, chat_templates.json: renderings by jinja2 in the environment of transformers. Made
// by make_text.py.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "places.h"
#include "text/builtin_templates.h"
#include "text/chat_template.h"

using namespace sluice;

namespace {
const Value& at(const Value& dict, std::string_view key) {
  const Value* value = dict.find(key);
  REQUIRE_MESSAGE(value != nullptr, key);
  return *value;
}

// The text, or why there is none, as transformers words what the template itself raises.
void check_render(const ChatTemplate& chat, const ChatInput& input, const Value& one) {
  std::string text, error;
  try {
    text = chat.render(input);
  } catch (const RequestError& e) {
    error = e.what();
  }
  if (const Value* expected = one.find("expected")) {
    CHECK(error == "");
    CHECK(text == expected->as_string());
    return;
  }
  CHECK(error != "");
  const std::string& message = at(one, "error").as_string();
  constexpr std::string_view kRaised = "TemplateError: ";
  if (message.starts_with(kRaised)) CHECK(error == message.substr(kRaised.size()));
}
}  // namespace

TEST_CASE("the field's ways of writing chat templates, and the built-in ones, render as transformers renders them") {
  const Value golden = Value::parse_json(read_file(test::source_dir() / "tests/golden/text/chat_templates.json"));
  size_t named = 0;
  for (const auto& [name, entry] : at(golden, "templates").as_dict().entries()) {
    CAPTURE(name);
    const std::string& source = at(entry, "source").as_string();
    const Dict& tokens = at(entry, "tokens").as_dict();
    std::unique_ptr<ChatTemplate> chat;
    if (name.starts_with("builtin/")) {
      chat = ChatTemplate::choose(name.substr(8), tokens);
      REQUIRE(chat->source() == source);
      CHECK(chat->takes_content_parts());
      ++named;
    } else {
      chat = ChatTemplate::from_text(source, tokens);
    }
    for (const Value& one : at(entry, "cases").as_list()) {
      CAPTURE(at(one, "conversation").as_string());
      const Value& conversation = at(at(golden, "conversations"), at(one, "conversation").as_string());
      ChatInput input;
      input.messages = at(conversation, "messages");
      input.tools = at(conversation, "tools");
      input.documents = at(conversation, "documents");
      input.variables = at(conversation, "extra").as_dict();
      input.add_generation_prompt = at(one, "add_generation_prompt").as_bool();
      check_render(*chat, input, one);
    }
  }
  CHECK(at(golden, "templates").as_dict().size() >= 33);
  CHECK(named == builtin_templates().size());
}

TEST_CASE("templates render as jinja2 does in transformers' environment") {
  const auto file = test::source_dir() / "tests/golden/text/templates.json";
  const Value golden = Value::parse_json(read_file(file));
  const List& cases = golden.find("cases")->as_list();
  REQUIRE(cases.size() > 200);
  for (const Value& one : cases) {
    CAPTURE(one.find("name")->as_string());
    const Value* expected = one.find("expected");
    ChatInput input;
    const Dict& context = one.find("context")->as_dict();
    for (const auto& [key, value] : context.entries()) input.variables.set(key, value);
    std::string text, error;
    try {
      text = ChatTemplate::from_text(one.find("template")->as_string())->render(input);
    } catch (const Error& e) {
      error = e.what();
    } catch (const RequestError& e) {
      error = e.what();
    }
    if (expected != nullptr) {
      CHECK(error == "");
      CHECK(text == expected->as_string());
      continue;
    }
    CHECK(error != "");
    const std::string& message = one.find("error")->as_string();
    constexpr std::string_view kRaised = "TemplateError: ";
    if (message.starts_with(kRaised)) CHECK(error == message.substr(kRaised.size()));
  }
}
