// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"
#include "places.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "text/unicode.h"

using namespace sluice;
using Ids = std::vector<int32_t>;

namespace {
std::filesystem::path golden(const char* name) { return test::source_dir() / "tests/golden/text" / name; }

// A model of single letters with the given components.
std::unique_ptr<Tokenizer> letters(const std::string& components, const std::string& config = "",
                                   const std::string& model = "") {
  const std::string vocab =
      R"("vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, " ": 5, "▁": 6, "1": 7, "é": 8, "<unk>": 9, "bc": 10}, )"
      R"("merges": ["a b", "ab c", "b c"])";
  return Tokenizer::from_json(fmt::format(R"({{{} "model": {{"type": "BPE", {} {}}}}})", components, model, vocab),
                              config, "letters");
}

std::string refusal(const std::string& components, const std::string& model = "") {
  try {
    letters(components, "", model);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }
}  // namespace

TEST_CASE("unknown components are refused by file, place and name") {
  CHECK(contains(refusal(R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "Prophecy"}]},)"),
                 "letters: normalizer: component type Prophecy"));
  CHECK(contains(refusal(R"("pre_tokenizer": {"type": "UnicodeScripts"},)"),
                 "pre_tokenizer: component type UnicodeScripts"));
  CHECK(contains(refusal(R"("decoder": {"type": "CTC"},)"), "decoder: component type CTC"));
  CHECK(contains(refusal(R"("post_processor": {"type": "Mystery"},)"), "post_processor: component type Mystery"));
  CHECK(contains(refusal(R"("pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Sometimes"},)"),
                 "behavior Sometimes"));
  CHECK(contains(refusal(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"},)"),
                 "does not compile"));
  CHECK_THROWS_WITH_AS(Tokenizer::from_json(R"({"model": {"type": "Oracle", "vocab": {}}})", "", "x.json"),
                       doctest::Contains("model type Oracle"), Error);
  CHECK_THROWS_AS(Tokenizer::from_json("{", "", "x.json"), Error);
  CHECK_THROWS_AS(Tokenizer::from_json("{}", "", "x.json"), Error);
}

TEST_CASE("merges that name a missing token are refused") {
  CHECK_THROWS_WITH_AS(
      Tokenizer::from_json(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}})", "", "x"),
      doctest::Contains("token ab"), Error);
  CHECK_THROWS_AS(Tokenizer::from_json(R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [7]}})", "", "x"),
                  Error);
}

TEST_CASE("the lowest rank merges first and the leftmost on ties") {
  const auto tokenizer = letters("");
  CHECK(tokenizer->encode("abc", false) == Ids{4});
  CHECK(tokenizer->encode("abab", false) == Ids{3, 3});
  CHECK(tokenizer->encode("bcabc", false) == Ids{10, 4});
  const auto listed = Tokenizer::from_json(
      R"({"model": {"type": "BPE", "vocab": {"a": 0, " ": 1, "a ": 2}, "merges": [["a", " "]]}})", "", "x");
  CHECK(listed->encode("a a", false) == Ids{2, 0});
}

TEST_CASE("a duplicate merge keeps its last rank") {
  const auto tokenizer = Tokenizer::from_json(
      R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4}, "merges": ["a b", "b c", "a b"]}})",
      "", "x");
  CHECK(tokenizer->encode("abc", false) == Ids{0, 4});
}

TEST_CASE("unknown characters vanish without an unk token and are fused with one") {
  CHECK(letters("")->encode("a??b", false) == Ids{3});  // and no longer part the others
  CHECK(letters("", "", R"("unk_token": "<unk>",)")->encode("a??b?", false) == Ids{0, 9, 9, 1, 9});
  CHECK(letters("", "", R"("unk_token": "<unk>", "fuse_unk": true,)")->encode("a??b?", false) == Ids{0, 9, 1, 9});
}

TEST_CASE("splits arrange matches and gaps in five ways, also inverted") {
  const auto pieces = [](const char* behavior, bool invert) {
    const auto tokenizer = Tokenizer::from_json(
        fmt::format(
            R"({{"pre_tokenizer": {{"type": "Split", "pattern": {{"Regex": "-"}}, "behavior": "{}", "invert": {}}},
                     "model": {{"type": "BPE", "ignore_merges": true, "merges": [], "vocab": {{
                       "a": 0, "-": 1, "b": 2, "a-": 3, "-b": 4, "--": 5, "--b": 6, "a--b": 7, "a--": 8}}}}}})",
            behavior, invert),
        "", "x");
    return tokenizer->encode("a--b", false);
  };
  CHECK(pieces("Removed", false) == Ids{0, 2});
  CHECK(pieces("Isolated", false) == Ids{0, 1, 1, 2});
  CHECK(pieces("Contiguous", false) == Ids{0, 5, 2});
  CHECK(pieces("MergedWithPrevious", false) == Ids{3, 1, 2});
  CHECK(pieces("MergedWithNext", false) == Ids{0, 1, 4});
  CHECK(pieces("Removed", true) == Ids{1, 1});
  CHECK(pieces("Contiguous", true) == Ids{0, 5, 2});
}

TEST_CASE("added tokens match leftmost-longest with their options") {
  const auto tokenizer = letters(R"("added_tokens": [
      {"id": 20, "content": "<s>", "special": true, "normalized": false},
      {"id": 21, "content": "<s>x", "normalized": false},
      {"id": 22, "content": "<r>", "normalized": false, "rstrip": true},
      {"id": 23, "content": "<l>", "normalized": false, "lstrip": true},
      {"id": 24, "content": "cc", "normalized": false, "single_word": true}],)");
  const Ids id = {*tokenizer->token_id("<s>"), *tokenizer->token_id("<s>x"), *tokenizer->token_id("<r>"),
                  *tokenizer->token_id("<l>"), *tokenizer->token_id("cc")};
  CHECK(id == Ids{11, 12, 13, 14, 15});  // the next free ids, whatever the file says
  CHECK(tokenizer->encode("a<s>xb<s>", false) == Ids{0, id[1], 1, id[0]});
  CHECK(tokenizer->encode("a <r>  b", false) == Ids{0, 5, id[2], 1});
  CHECK(tokenizer->encode("a  <l> b", false) == Ids{0, id[3], 5, 1});
  CHECK(tokenizer->encode("<r> <l>", false) == Ids{id[2], id[3]});
  CHECK(tokenizer->encode("cc acc cc", false) == Ids{id[4], 5, 0, 2, 2, 5, id[4]});
  CHECK(tokenizer->decode(Ids{0, id[0], 1}, true) == "a b");  // no decoder: joined with spaces
  CHECK(tokenizer->is_special(id[0]));
  CHECK_FALSE(tokenizer->is_special(id[1]));
  CHECK(tokenizer->vocab_size() == 16);
}

TEST_CASE("the configuration's flags and names win over the file's") {
  const auto tokenizer =
      letters(R"("added_tokens": [{"id": 11, "content": "<x>", "normalized": false}],)",
              R"({"added_tokens_decoder": {"11": {"content": "<x>", "rstrip": true, "special": true}},
                                     "bos_token": {"content": "<x>"}, "eos_token": "<end>", "pad_token": null})");
  CHECK(tokenizer->encode("<x> a", false) == Ids{11, 0});
  CHECK(tokenizer->is_special(11));
  CHECK(tokenizer->bos_id() == 11);
  CHECK(tokenizer->eos_id() == 12);
  CHECK(tokenizer->is_special(12));
  CHECK_FALSE(tokenizer->pad_id().has_value());
}

TEST_CASE("Llama classes take BOS and EOS from the configuration, others from the file") {
  const char* file =
      R"("added_tokens": [{"id": 11, "content": "<s>", "special": true}, {"id": 12, "content": "</s>", "special": true}],
      "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                         "special_tokens": {"<s>": {"ids": [11]}}},)";
  const auto config = [](const char* text) {
    return fmt::format(R"({{"bos_token": "<s>", "eos_token": "</s>", {}}})", text);
  };
  CHECK(letters(file)->encode("a", true) == Ids{11, 0});
  CHECK(letters(file, config(R"("tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": false)"))
            ->encode("a", true) == Ids{11, 0});
  CHECK(letters(file, config(R"("tokenizer_class": "LlamaTokenizer", "add_bos_token": false)"))->encode("a", true) ==
        Ids{0});
  CHECK(letters(file, config(R"("tokenizer_class": "LlamaTokenizerFast", "add_eos_token": true)"))->encode("a", true) ==
        Ids{11, 0, 12});
  CHECK(letters(file)->encode("a", false) == Ids{0});
}

TEST_CASE("Metaspace prepends once, and with first only at the start of the text") {
  const auto with = [](const char* scheme) {
    return letters(fmt::format(R"("added_tokens": [{{"id": 11, "content": "<s>", "normalized": false}}],
        "pre_tokenizer": {{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "{}", "split": false}},)",
                               scheme));
  };
  CHECK(with("first")->encode("a<s>b", false) == Ids{6, 0, 11, 1});
  CHECK(with("always")->encode("a<s>b", false) == Ids{6, 0, 11, 6, 1});
  CHECK(with("never")->encode("a<s>b", false) == Ids{0, 11, 1});
  CHECK(with("first")->encode(" a", false) == Ids{6, 0});
}

TEST_CASE("normalizers rewrite the text between added tokens") {
  CHECK(letters(R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip"}, {"type": "Lowercase"}]},)")
            ->encode("  AB\n", false) == Ids{3});
  CHECK(letters(R"("normalizer": {"type": "NFC"},)")->encode("e\u0301", false) == Ids{8});
  CHECK(letters(R"("normalizer": {"type": "Replace", "pattern": {"Regex": "x+"}, "content": "a"},)")
            ->encode("xxbx", false) == Ids{3, 0});
  CHECK(letters(R"("normalizer": {"type": "Prepend", "prepend": "▁"},)")->encode("", false).empty());
}

TEST_CASE("byte tokens round-trip every byte") {
  const auto tokenizer = Tokenizer::bytes();
  CHECK(tokenizer->vocab_size() == 258);
  CHECK(tokenizer->encode("hé\n", true) == Ids{256, 'h', 0xC3, 0xA9, '\n'});
  CHECK(tokenizer->decode(Ids{256, 'h', 0xC3, 0xA9, '\n', 257}, true) == "hé\n");
  CHECK(tokenizer->eos_id() == 257);
  CHECK(tokenizer->decode(Ids{-1, 258, 1 << 30, 'x'}, false) == "x");
}

TEST_CASE("random bytes never break encoding, and ByteLevel text comes back as it went in") {
  std::mt19937 random(4);
  for (const char* name : {"llama3", "gpt2", "llama_legacy", "llama_metaspace", "qwen2", "added_flags"}) {
    CAPTURE(name);
    const auto tokenizer = Tokenizer::load(golden(name));
    for (int round = 0; round < 200; ++round) {
      std::string text;
      for (int n = static_cast<int>(random() % 60); n > 0; --n) {
        switch (random() % 4) {
          case 0:
            text += static_cast<char>(random());
            break;
          case 1:
            append_utf8(text, 1 + random() % 0xD7FF);
            break;
          case 2:
            text += "<|>s/ \n'1"[random() % 9];
            break;
          default:
            append_utf8(text, 0xE000 + random() % 0x101FFF);
        }
      }
      for (const int32_t id : tokenizer->encode(text, true)) REQUIRE(id < tokenizer->vocab_size());
      const std::string back = tokenizer->decode(tokenizer->encode(text, false), false);
      REQUIRE(is_utf8(back));
      if (std::string_view(name) == "llama3") REQUIRE(back == to_utf8_lossy(text));
    }
  }
}

TEST_CASE("a megabyte without spaces takes near-linear time") {
  for (const char* name : {"llama3", "llama_legacy"}) {
    CAPTURE(name);
    const auto tokenizer = Tokenizer::load(golden(name));
    std::string text;
    while (text.size() < 1'000'000) text += "thequickbrownfoxjumpsoverthelazydog";
    const std::vector<int32_t> ids = tokenizer->encode(text, false);
    CHECK(ids.size() < text.size());
    CHECK(tokenizer->decode(ids, false) == text);
    CHECK(tokenizer->encode(std::string(200'000, 'a'), false).size() > 1000);
    CHECK(tokenizer->encode(std::string(200'000, ' '), false).size() > 0);
  }
}

TEST_CASE("a pattern that backtracks without end is stopped") {
  const auto tokenizer =
      letters(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"},)");
  CHECK_THROWS_AS(tokenizer->encode(std::string(40, 'a') + "b", false), RequestError);
}

TEST_CASE("several threads may encode at once") {
  const auto tokenizer = Tokenizer::load(golden("llama3"));
  const std::string text = "It's a test, 12345 tokens\n\n  and Москва 中文 <|eot_id|>";
  const Ids expected = tokenizer->encode(text, true);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) wrong[t] += tokenizer->encode(text, true) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}
