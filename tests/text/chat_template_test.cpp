// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "text/tokenizer.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
std::string render(const std::string& source, Dict variables = {}) {
  ChatInput input;
  input.messages = Value(List{});
  input.variables = std::move(variables);
  return ChatTemplate::from_text(source)->render(input);
}

std::string failure(const std::string& source) {
  try {
    render(source);
  } catch (const RequestError& error) {
    CHECK(error.kind() == RequestError::Kind::kTemplate);
    return error.what();
  }
  return "";
}

Value message(const char* role, Value content) {
  Dict dict;
  dict.set("role", role);
  dict.set("content", std::move(content));
  return Value(std::move(dict));
}

constexpr const char* kChatml =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

struct Folder {
  fs::path path = fs::temp_directory_path() / ("sluice-template-" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  void write(const fs::path& name, std::string_view text) const {
    fs::create_directories((path / name).parent_path());
    replace_file(path / name, text);
  }
};
}  // namespace

TEST_CASE("endless work, depth and output are stopped") {
  CHECK(failure("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}") != "");
  CHECK(failure("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}") != "");
  CHECK(failure("{{ 'a' * 100000000000 }}") != "");
  CHECK(failure(
            "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}") !=
        "");
  CHECK(failure("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}") !=
        "");
  CHECK(failure("{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}") != "");
  CHECK(failure("{% set t = 'x' * 9000000 %}{% for i in range(99) %}{{ t }}{% endfor %}") != "");
  CHECK(failure("{{ range(100001) }}") != "");
  CHECK(failure("{{ 10 ** 400 }}") != "");
  std::string sum = "{{ 1";
  for (int i = 0; i < 200000; ++i) sum += "+1";
  CHECK_THROWS_AS(render(sum + " }}"), Error);
  CHECK_THROWS_AS(render(std::string(100000, '(').insert(0, "{{ ") + " }}"), Error);
}

TEST_CASE("a namespace that holds itself and a macro outside its block do no harm") {
  CHECK(render("{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.list = [ns] %}ok") == "ok");
  CHECK(failure("{% set ns = namespace() %}{% for i in [1] %}{% macro f() %}{{ i }}{% endmacro %}{% set ns.f = f %}{% "
                "endfor %}{{ ns.f() }}") != "");
  CHECK(
      render("{% set ns = namespace() %}{% for i in [1, 2] %}{% set ns.c = loop.changed %}{% endfor %}{{ ns.c(5) }}") ==
      "True");
}

TEST_CASE("unsupported tags, filters and tests are refused by name and line") {
  for (const char* source : {"\n{% include 'x' %}", "\n{% extends 'x' %}", "\n{% block b %}{% endblock %}",
                             "\n{{ 1|nope }}", "\n{{ 1 is nope }}"}) {
    CAPTURE(source);
    CHECK_THROWS_WITH_AS(render(source), doctest::Contains("line 2"), Error);
  }
}

TEST_CASE("Python's corners that the goldens leave out") {
  CHECK(render("{{ 'a-b-c'.rsplit('-', 1) }}") == "['a-b', 'c']");
  CHECK(render("{{ ' a  b c '.split(none, 1) }}") == "['a', 'b c ']");
  CHECK(render("{{ [3, 1, 2]|sort(reverse=true) }}{{ [1, 2, 3]|sum }}") == "[3, 2, 1]6");
  CHECK(render("{{ [1, 2, 3][5:] }}{{ [1, 2, 3][-9:2] }}{{ 'héllo'[1:3] }}{{ [1, 2, 3, 4][::2] }}") ==
        "[][1, 2]él[1, 3]");
  CHECK(render("{{ 'x' in none|default([], true) }}") == "False");
  CHECK(render("{% if [1]|select('odd') %}generators are true{% endif %}") == "generators are true");
  CHECK(failure("{{ [1]|select('odd')|length }}") == "object of type 'generator' has no len()");
  CHECK(render("{{ 'yes' if (1, 2) == (1, 2) and [1] != (1,) }}") == "yes");
  CHECK(render("{{ '%5.2f|%-4s|%03d' % (3.14159, 'ab', 7) }}") == " 3.14|ab  |007");
  CHECK(render("{{ 'ab'|center(6) }}|{{ '\\x41\\u00e9' }}") == "  ab  |Aé");
  CHECK(render("{{ {'a': {'b': 1}} | tojson(indent=1) }}") == "{\n \"a\": {\n  \"b\": 1\n }\n}");
  CHECK(failure("{{ undefined_one.x }}") == "'undefined_one' is undefined");
  CHECK(failure("{{ raise_exception('Only ' ~ 2) }}") == "Only 2");
  CHECK(render("{{ strftime_now('%Y') | int > 2020 }}") == "True");
  CHECK(failure("{{ 9223372036854775807 + 1 }}") != "");
}

TEST_CASE("a final message is left open where continue_final_message asks for it") {
  ChatInput input;
  input.messages = Value(List{message("user", "hi"), message("assistant", "I am ")});
  input.add_generation_prompt = false;
  input.continue_final_message = true;
  CHECK(ChatTemplate::from_text(kChatml)->render(input) ==
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nI am ");
  CHECK(ChatTemplate::from_text("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}")->render(input) ==
        "[hi][I am");
  Dict part;
  part.set("type", "text");
  part.set("text", "so");
  input.messages = Value(List{message("assistant", Value(List{Value(std::move(part))}))});
  CHECK(ChatTemplate::from_text("{% for p in messages[0].content %}<{{ p.text }}>{% endfor %}")->render(input) ==
        "<so");
  CHECK_THROWS_AS(ChatTemplate::from_text("{{ messages|length }}")->render(input), RequestError);
  input.add_generation_prompt = true;
  CHECK_THROWS_AS(ChatTemplate::from_text(kChatml)->render(input), RequestError);
}

TEST_CASE("templates are found in their order and named ones on request") {
  Folder folder;
  CHECK(ChatTemplate::load(folder.path) == nullptr);
  folder.write("chat_template.json", R"({"chat_template": "from json"})");
  ChatInput input;
  input.messages = Value(List{});
  CHECK(ChatTemplate::load(folder.path)->render(input) == "from json");
  folder.write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": [
      {"name": "default", "template": "{{ bos_token }}default"}, {"name": "tool_use", "template": "tools"}]})");
  const auto named = ChatTemplate::load(folder.path);
  CHECK(named->names() == std::vector<std::string>{"default", "tool_use"});
  CHECK(named->render(input) == "<s>default");
  input.tools = Value(List{});
  CHECK(named->render(input) == "tools");
  input.name = "rag";
  CHECK_THROWS_WITH_AS(named->render(input), doctest::Contains("default, tool_use"), RequestError);
  input.name = "";
  folder.write("chat_template.jinja", "file {{ eos_token }} {{ tools is not none }}\n");
  folder.write("additional_chat_templates/rag.jinja", "rag");
  CHECK(ChatTemplate::load(folder.path)->render(input) == "file </s> True");
  CHECK(ChatTemplate::load(folder.path)->names().size() == 2);
  folder.write("chat_template.jinja", "{% if %}");
  CHECK_THROWS_WITH_AS(ChatTemplate::load(folder.path), doctest::Contains("chat_template.jinja"), Error);
}

TEST_CASE("templates that look at parts are told from those that join strings") {
  CHECK_FALSE(ChatTemplate::from_text(kChatml)->takes_content_parts());
  CHECK(ChatTemplate::from_text("{% for m in messages %}{% if m.content is string %}{% endif %}{% endfor %}")
            ->takes_content_parts());
  CHECK(ChatTemplate::from_text("{% for m in messages %}{% for p in m['content'] %}{% endfor %}{% endfor %}")
            ->takes_content_parts());
  CHECK_FALSE(ChatTemplate::from_text(
                  "{% for m in messages %}{% if 'x' in m['content'] %}{{ m['content'] }}{% endif %}{% endfor %}")
                  ->takes_content_parts());
}

TEST_CASE("broken templates give an error or text, never a crash") {
  const std::string base =
      "{% macro f(a, b=1) %}{{ a|default(b)|tojson }}{% endmacro %}{%- for x, y in {'a': [1, 2.5, 'z']}.items() if x "
      "is in ['a'] -%}"
      "{{ loop.index ~ f(y[::-1], b=x) }}{% else %}{# c #}{% endfor %}{% set ns = namespace(a=1) %}{% set ns.a = ns.a "
      "+ 1 %}{{ ns.a }}";
  CHECK(render(base) == "1[\"z\", 2.5, 1]2");
  std::mt19937 random(6);
  int parsed = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string source = base;
    for (int n = 1 + static_cast<int>(random() % 3); n > 0; --n) {
      const size_t at = random() % source.size();
      switch (random() % 3) {
        case 0:
          source.erase(at, 1 + random() % 4);
          break;
        case 1:
          source.insert(at, 1, "{}%()[]|.,'\"-+~ x1"[random() % 18]);
          break;
        default:
          source[at] = static_cast<char>(random());
      }
    }
    try {
      render(source);
      ++parsed;
    } catch (const Error&) {
    } catch (const RequestError&) {
    }
  }
  CHECK(parsed > 100);
}

TEST_CASE("several threads may render at once") {
  const auto chat = ChatTemplate::from_text(kChatml);
  ChatInput input;
  input.messages = Value(List{message("user", "hi")});
  const std::string expected = chat->render(input);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) wrong[t] += chat->render(input) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

TEST_CASE("a template is chosen by built-in name or by file, anything else is refused with the names") {
  CHECK(ChatTemplate::choose("chatml", {})->source().starts_with("{%- macro text"));
  const Folder folder;
  folder.write("own.jinja", "{{ bos_token }}{{ messages[0].content }}");
  Dict tokens;
  tokens.set("bos_token", "<s>");
  ChatInput input;
  input.messages = Value(List{message("user", "hi")});
  CHECK(ChatTemplate::choose((folder.path / "own.jinja").string(), tokens)->render(input) == "<s>hi");
  CHECK_THROWS_WITH_AS(ChatTemplate::choose("chatlm", {}), doctest::Contains("or one of alpaca, chatml, falcon"),
                       Error);
  folder.write("bad.jinja", "{% if %}");
  CHECK_THROWS_WITH_AS(ChatTemplate::choose((folder.path / "bad.jinja").string(), {}), doctest::Contains("line 1"),
                       Error);
  // Without special tokens a built-in template leaves them out.
  CHECK(ChatTemplate::choose("mistral", {})->render(input) == "[INST] hi [/INST]");
}

TEST_CASE("strftime_now writes the local time as Python does") {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::localtime_r(&now, &parts);
  char text[100];
  for (const char* format : {"%Y-%m-%d", "%d %b %Y", "%A, %B %d", "%j %y %p"}) {
    REQUIRE(std::strftime(text, sizeof text, format, &parts) > 0);
    const std::string got = render("{{ strftime_now('" + std::string(format) + "') }}");
    if (got != text) {  // midnight fell between the two
      const std::time_t later = std::time(nullptr);
      ::localtime_r(&later, &parts);
      std::strftime(text, sizeof text, format, &parts);
    }
    CHECK(got == text);
  }
}
