// SPDX-License-Identifier: Apache-2.0
#include "text/infill.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "places.h"

using namespace sluice;
using Ids = std::vector<int32_t>;

namespace {
// A golden tokenizer with further special tokens.
std::unique_ptr<Tokenizer> with_tokens(const std::string& name, const std::vector<std::string>& tokens) {
  const auto folder = test::source_dir() / "tests/golden/text" / name;
  std::string json = read_file(folder / "tokenizer.json"), added;
  for (const std::string& token : tokens)
    added += fmt::format(R"({{"id": 99999, "content": "{}", "special": true, "normalized": false}},)", token);
  const std::string list = "\"added_tokens\":";
  json.insert(json.find('[', json.find(list)) + 1, added);
  const auto config = folder / "tokenizer_config.json";
  return Tokenizer::from_json(json, std::filesystem::exists(config) ? read_file(config) : "", name);
}

Ids joined(std::initializer_list<Ids> parts) {
  Ids out;
  for (const Ids& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}
}  // namespace

TEST_CASE("a gap is asked for between its two texts, and the model's own marks end it") {
  const auto qwen = with_tokens("qwen2", {"<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"});
  const auto id = [&](const char* token) { return *qwen->token_id(token); };
  const auto made = infill(*qwen, "def f(x):\n  ", "\n  return y");
  REQUIRE(made);
  CHECK(made->prompt == joined({{id("<|fim_prefix|>")},
                                qwen->encode("def f(x):\n  ", false),
                                {id("<|fim_suffix|>")},
                                qwen->encode("\n  return y", false),
                                {id("<|fim_middle|>")}}));
  CHECK(made->stops ==
        Ids{id("<|fim_prefix|>"), id("<|fim_suffix|>"), id("<|fim_middle|>"), id("<|fim_pad|>"), id("<|endoftext|>")});
  CHECK_FALSE(infill(*with_tokens("qwen2", {"<|fim_prefix|>", "<|fim_suffix|>"}), "a", "b"));
  CHECK_FALSE(infill(*Tokenizer::bytes(), "a", "b"));
}

TEST_CASE("a suffix gets no space of its own where the tokenizer puts one before a text") {
  for (const char* name : {"llama_legacy", "llama_metaspace"}) {
    CAPTURE(name);
    const auto llama = with_tokens(name, {"▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"});
    const auto made = infill(*llama, "one", " two");
    REQUIRE(made);
    const Ids& ids = made->prompt;
    const auto at = [&](const char* token) {
      return static_cast<size_t>(std::find(ids.begin(), ids.end(), *llama->token_id(token)) - ids.begin());
    };
    CHECK(ids[0] == *llama->token_id("<s>"));
    CHECK(ids[1] == *llama->token_id("▁<PRE>"));
    CHECK(ids.back() == *llama->token_id("▁<MID>"));
    const size_t suffix = at("▁<SUF>");
    REQUIRE(suffix < ids.size());
    CHECK(Ids(ids.begin() + 2, ids.begin() + static_cast<std::ptrdiff_t>(suffix)) == llama->encode("one", false));
    std::string text;
    for (size_t i = suffix + 1; i + 1 < ids.size(); ++i) text += llama->token_text(ids[i]);
    CHECK(text == "▁two");
    CHECK(made->stops.back() == *llama->token_id("▁<EOT>"));
    CHECK(infill(*llama, "one", "two", false)->prompt[0] == *llama->token_id("▁<PRE>"));
  }
}

TEST_CASE("Codestral reads the suffix first") {
  const auto tokenizer = with_tokens("llama_legacy", {"[PREFIX]", "[SUFFIX]"});
  const auto made = infill(*tokenizer, "one", "two", false);
  REQUIRE(made);
  CHECK(made->prompt.front() == *tokenizer->token_id("[SUFFIX]"));
  CHECK(made->stops == Ids{*tokenizer->token_id("[SUFFIX]"), *tokenizer->token_id("[PREFIX]")});
  const Ids prefix = joined({{*tokenizer->token_id("[PREFIX]")}, tokenizer->encode("one", false)});
  CHECK(std::equal(prefix.rbegin(), prefix.rend(), made->prompt.rbegin()));
}
