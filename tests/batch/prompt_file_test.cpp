// SPDX-License-Identifier: Apache-2.0
#include "batch/prompt_file.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "batch/scratch.h"

using namespace sluice;

TEST_CASE("plain text is one prompt per line, blank lines are skipped but counted") {
  Scratch scratch;
  const PromptFile file(scratch.write("p.txt", "one\r\n\n  \ntwo"));
  REQUIRE(file.size() == 2);
  CHECK(file.read(0, {}).text == "one");
  CHECK(file.read(1, {}).text == "two");
  CHECK(file.read(1, {}).line == 4);
}

TEST_CASE("JSON lines carry prompts, messages, ids and parameters") {
  Scratch scratch;
  const PromptFile file(
      scratch.write("p.jsonl", R"({"prompt":"a","custom_id":"x","max_tokens":7,"parameters":{"top_p":0.5,"stop":["z"]}}
{"messages":[{"role":"user","content":"b"}],"temperature":0.7,"seed":9}
"just text"
)"));
  REQUIRE(file.size() == 3);
  const Prompt first = file.read(0, {});
  CHECK(first.error.empty());
  CHECK(first.id.as_string() == "x");
  CHECK(first.request.max_new_tokens == 7);
  CHECK_FALSE(first.request.sampling.greedy);
  CHECK(first.request.stop == std::vector<std::string>{"z"});
  const Prompt second = file.read(1, {});
  CHECK(second.messages.as_list().size() == 1);
  CHECK(second.request.has_seed);
  CHECK(second.request.sampling.seed == 9);
  CHECK(file.read(2, {}).text == "just text");
}

TEST_CASE("a bad line carries its number, the key and what was found, and the others stay good") {
  Scratch scratch;
  const PromptFile file(scratch.write("p.jsonl", R"({"prompt":"a"}
{"prompt":"a","temprature":1}
{"prompt":"a","top_p":1.5}
{"prompt":
{"prompt":"a","messages":[{"role":"user","content":"b"}]}
{"max_tokens":3}
[1]
)"));
  REQUIRE(file.size() == 7);
  CHECK(file.read(0, {}).error.empty());
  CHECK(file.read(1, {}).error.find("line 2: 'temprature'") == 0);
  CHECK(file.read(2, {}).error.find("1.5") != std::string::npos);
  for (int i = 3; i < 7; ++i) CHECK_FALSE(file.read(i, {}).error.empty());
}

TEST_CASE("a file without prompts is refused") {
  Scratch scratch;
  CHECK_THROWS_WITH_AS(PromptFile(scratch.write("p", "\n \n")), doctest::Contains("no prompt"), Error);
  CHECK_THROWS_AS(PromptFile(scratch.path / "absent"), Error);
}
