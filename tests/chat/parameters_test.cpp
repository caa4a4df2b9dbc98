// SPDX-License-Identifier: Apache-2.0
#include "chat/parameters.h"

#include <doctest/doctest.h>

#include <fstream>

#include "base/error.h"
#include "cluster/folder.h"

using namespace sluice;

namespace {
std::string json(const ChatParameters& parameters) { return Value(parameters.fields()).dump_compact(); }
}  // namespace

TEST_CASE("a parameter has its own name and Ollama's, with either line") {
  ChatParameters p;
  p.set("repeat_penalty", "1.5");
  p.set("num-predict", "7");
  p.set("top-k", "40");
  CHECK(json(p) == R"({"repetition_penalty":1.5,"max_tokens":7,"top_k":40})");
  p.set("max_tokens", "8");
  p.unset("repetition-penalty");
  CHECK(json(p) == R"({"max_tokens":8,"top_k":40})");
  CHECK(p.text() == "  max_tokens           8\n  top_k                40\n");
}

TEST_CASE("what is no parameter, or no value of one, is refused with what was expected") {
  ChatParameters p;
  for (const auto& [name, value, words] :
       {std::tuple{"mirostat", "1", "mirostat is no parameter; there are temperature, top_k"},
        {"temperature", "warm", "temperature: expected a number from 0"},
        {"temperature", "nan", "temperature: expected a number"},
        {"top_p", "1.01", "top_p: expected a number from 1e-06 to 1, found \"1.01\""},
        {"top_k", "4.5", "top_k: expected a whole number"},
        {"seed", "-1", "seed: expected a whole number"},
        {"max_tokens", "0", "max_tokens: expected a whole number from 1"},
        {"stop", "", "stop: expected a text"},
        {"format", "/nowhere/x.json", "expected json or a file with a JSON schema"}})
    CHECK_THROWS_WITH_AS(p.set(name, value), doctest::Contains(words), Error);
  CHECK_THROWS_WITH_AS(p.unset("mirostat"), doctest::Contains("is no parameter"), Error);
  CHECK(p.fields().empty());
}

TEST_CASE("a request gets what is set and keeps its own where nothing is") {
  ChatParameters p;
  GenerateRequest request;
  request.sampling.greedy = true;
  request.sampling.top_p = 0.5f;
  request.max_new_tokens = 99;
  for (const auto& [name, value] : {std::pair{"temperature", "0.7"},
                                    {"top_k", "3"},
                                    {"min_p", "0.1"},
                                    {"seed", "11"},
                                    {"presence_penalty", "-1"},
                                    {"stop", "a"},
                                    {"stop", "b"}})
    p.set(name, value);
  p.apply(request);
  CHECK_FALSE(request.sampling.greedy);
  CHECK(request.sampling.temperature == 0.7f);
  CHECK(request.sampling.top_k == 3);
  CHECK(request.sampling.min_p == 0.1f);
  CHECK(request.sampling.presence_penalty == -1);
  CHECK(request.sampling.seed == 11);
  CHECK(request.has_seed);
  CHECK(request.stop == std::vector<std::string>{"a", "b"});
  CHECK(request.sampling.top_p == 0.5f);
  CHECK(request.max_new_tokens == 99);
  p.set("temperature", "0");
  p.apply(request);
  CHECK(request.sampling.greedy);
}

TEST_CASE("answers are held to JSON, or to the schema of a file") {
  const TestFolder folder;
  ChatParameters p;
  GenerateRequest request;
  p.set("format", "json");
  p.apply(request);
  CHECK(request.grammar.kind == GrammarSpec::Kind::kJsonObject);
  CHECK(p.text() == "  format               {\"type\": \"json_object\"}\n");
  std::ofstream(folder.path / "schema.json") << R"({"type":"integer"})";
  p.set("format", (folder.path / "schema.json").string());
  GenerateRequest another;
  p.apply(another);
  CHECK(another.grammar.kind == GrammarSpec::Kind::kJsonSchema);
  std::ofstream(folder.path / "broken.json") << "{";
  CHECK_THROWS_WITH_AS(p.set("format", (folder.path / "broken.json").string()), doctest::Contains("is not JSON"),
                       Error);
  p.unset("format");
  CHECK(p.fields().empty());
}
