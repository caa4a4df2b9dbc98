// SPDX-License-Identifier: Apache-2.0
// tests/golden/text/templates.json: renderings by jinja2 in the environment of transformers. Made by make_text.py.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "text/chat_template.h"

using namespace sluice;

TEST_CASE("templates render as jinja2 does in transformers' environment") {
  const auto file = std::filesystem::path(SLUICE_SOURCE_DIR) / "tests/golden/text/templates.json";
  const Value golden = Value::parse_json(read_file(file));
  const List& cases = golden.find("cases")->as_list();
  REQUIRE(cases.size() > 400);
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
