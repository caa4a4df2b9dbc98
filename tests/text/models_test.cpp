// SPDX-License-Identifier: Apache-2.0
// Unigram, WordPiece, WordLevel and the Precompiled map: what their files may hold, and limits of work.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <random>

#include "base/error.h"
#include "text/base64.h"
#include "text/charsmap.h"
#include "text/tokenizer.h"

using namespace sluice;
using Ids = std::vector<int32_t>;

namespace {
std::unique_ptr<Tokenizer> with_model(const std::string& model, const std::string& parts = "") {
  return Tokenizer::from_json(fmt::format(R"({{{} "model": {}}})", parts, model), "", "file");
}
std::string refusal(const std::string& model, const std::string& parts = "") {
  try {
    with_model(model, parts);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}
std::string number(uint32_t value) {
  std::string out;
  for (int i = 0; i < 4; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}
std::string map_refusal(const std::string& bytes) {
  try {
    Charsmap map(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}
const std::string kLetters = R"([["<unk>", 0], ["a", -1], ["b", -2.5], ["ab", -2], ["aba", -9], ["bb", -5.0]])";
}  // namespace

TEST_CASE("Unigram takes the best path, the longer last token on ties, and joins what it does not know") {
  const auto tokenizer = with_model(R"({"type": "Unigram", "unk_id": 0, "vocab": )" + kLetters + "}");
  CHECK(tokenizer->encode("ab", false) == Ids{3});
  CHECK(tokenizer->encode("aba", false) == Ids{3, 1});
  CHECK(tokenizer->encode("bb", false) == Ids{5});  // -5 both ways
  CHECK(tokenizer->encode("xyza", false) == Ids{0, 1});
  CHECK(tokenizer->encode("", false).empty());
  const auto bare = with_model(R"({"type": "Unigram", "unk_id": null, "vocab": [["a", -1]]})");
  CHECK(bare->encode("aa", false) == Ids{0, 0});
  CHECK_THROWS_WITH_AS(bare->encode("ab", false), doctest::Contains("no unk_id"), RequestError);
}

TEST_CASE("damaged Unigram vocabularies are refused with what was expected") {
  const auto model = [](const std::string& vocab, const std::string& more = "") {
    return R"({"type": "Unigram", )" + more + R"( "vocab": )" + vocab + "}";
  };
  CHECK(refusal(model("[]")) == "file: model: \"vocab\" holds no tokens");
  CHECK(refusal(model("{}")) == "file: model: \"vocab\" should be a list");
  CHECK(refusal(model(R"([["a", 0], ["b"]])")) == "file: model: entry 1 of \"vocab\" should be [token, score]");
  CHECK(refusal(model(R"([["a", true]])")) == "file: model: entry 0 of \"vocab\" should be [token, score]");
  CHECK(refusal(model(R"([["a", 1e999]])")).find("the score of token a should be a number") != std::string::npos);
  CHECK(refusal(model(R"([["a", 0]])", R"("unk_id": 1,)")) ==
        "file: model: \"unk_id\" is 1, expected one of the 1 tokens");
  CHECK(refusal(model("[[\"" + std::string(2000, 'a') + "\", 0]]")).find("2000 bytes, expected at most 1024") !=
        std::string::npos);
}

TEST_CASE("WordPiece takes the longest known beginning and gives up on the whole word") {
  const std::string vocab = R"("vocab": {"[UNK]": 0, "un": 1, "##aff": 2, "##able": 3, "##a": 4, "é": 5})";
  const auto tokenizer = with_model(R"({"type": "WordPiece", "max_input_chars_per_word": 10, )" + vocab + "}",
                                    R"("pre_tokenizer": {"type": "WhitespaceSplit"},)");
  CHECK(tokenizer->encode("unaffable una éa unx aff", false) == Ids{1, 2, 3, 1, 4, 5, 4, 0, 0});
  CHECK(tokenizer->encode("unaaaaaaaa unaaaaaaaaa", false) == Ids{1, 4, 4, 4, 4, 4, 4, 4, 4, 0});
  CHECK(refusal(R"({"type": "WordPiece", "vocab": {"a": 0}})") ==
        "file: model: unk_token [UNK] is not in the vocabulary");
  CHECK(refusal(R"({"type": "WordPiece", "vocab": {"[UNK]": 0, ")" + std::string(300, 'a') + "\": 1}}") ==
        "file: model: a token of 300 bytes, expected at most 256");
  CHECK(refusal(R"({"type": "WordPiece", "vocab": []})").find("should be an object") != std::string::npos);
}

TEST_CASE("WordLevel knows whole words") {
  const auto tokenizer = with_model(R"({"type": "WordLevel", "unk_token": "?", "vocab": {"a": 0, "?": 1}})",
                                    R"("pre_tokenizer": {"type": "WhitespaceSplit"},)");
  CHECK(tokenizer->encode("a b a", false) == Ids{0, 1, 0});
  const auto bare = with_model(R"({"type": "WordLevel", "vocab": {"a": 0}})");
  CHECK_THROWS_WITH_AS(bare->encode("b", false), doctest::Contains("does not know the word b"), RequestError);
}

TEST_CASE("ids far beyond the number of tokens are refused, some gaps are not") {
  const auto two = [](int64_t id) {
    return fmt::format(R"({{"type": "BPE", "merges": [], "vocab": {{"a": 0, "b": {}}}}})", id);
  };
  CHECK(with_model(two(65567))->vocab_size() == 65568);
  CHECK(refusal(two(65568)) ==
        "file: model: id of token b is out of range: expected 0 to 65567 among 2 tokens, found 65568");
  CHECK(refusal(two(-1)) == "file: model: id of token b is out of range: expected 0 to 65567 among 2 tokens, found -1");
}

TEST_CASE("a megabyte without spaces goes through every model") {
  std::string text;
  std::mt19937 random(3);
  while (text.size() < 1'000'000) text += "ab"[random() % 2];
  const std::string level = R"("vocab": {"[UNK]": 0, "a": 1, "b": 2, "##a": 3, "##b": 4, "##ab": 5})";
  const auto length = [&](const std::string& model) { return with_model(model)->encode(text, false).size(); };
  CHECK(length(R"({"type": "Unigram", "unk_id": 0, "vocab": )" + kLetters + "}") > 400'000);
  CHECK(length(R"({"type": "WordPiece", "max_input_chars_per_word": 2000000, )" + level + "}") > 400'000);
  CHECK(length(R"({"type": "WordPiece", )" + level + "}") == 1);
  CHECK(length(R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "abab": 3}, "merges": ["a b", "ab ab"]})") >
        400'000);
}

TEST_CASE("a damaged Precompiled map is refused, and one that points outside changes nothing") {
  CHECK(map_refusal("abc") == "expected at least 8 bytes, found 3");
  CHECK(map_refusal(number(0) + number(0)).find("its trie has 0 bytes, expected a multiple of 4") != std::string::npos);
  CHECK(map_refusal(number(6) + number(0)).find("its trie has 6 bytes") != std::string::npos);
  CHECK(map_refusal(number(400) + number(0)).find("its trie has 400 bytes, expected a multiple of 4 up to 4") !=
        std::string::npos);
  CHECK(map_refusal(number(4) + number(0) + "\xff" + std::string(1, '\0')) == "its replacements are not UTF-8");
  CHECK(map_refusal(number(4) + number(0) + "abc") == "its last replacement does not end with NUL");
  CHECK(refusal("{}", R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": "@@"},)") ==
        "file: normalizer: \"precompiled_charsmap\" should be base64");
  CHECK(refusal("{}", R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": "YWJj"},)") ==
        "file: normalizer: \"precompiled_charsmap\" is damaged: expected at least 8 bytes, found 3");
  // Random units: every look-up ends inside the table.
  std::mt19937 random(9);
  for (int round = 0; round < 200; ++round) {
    std::string bytes = number(400);
    for (int i = 0; i < 100; ++i) {
      const auto label = static_cast<uint32_t>(random() % 128);
      bytes += number(random() % 2 == 0 ? static_cast<uint32_t>(random()) : label | (random() % 64) << 10 | 1u << 8);
    }
    const Charsmap map(bytes + "x" + std::string(1, '\0'));
    map.apply("Hello \r\n e\u0301 \u1112\u1161\u11ab \U0001F469\u200D\U0001F469\u200D\U0001F467");
  }
}

TEST_CASE("base64 is read strictly and written so that it reads back") {
  std::string out;
  for (const std::string bytes : {"", "a", "ab", "abc", "abcd", "\x01\xff\x80"}) {
    CHECK(decode_base64(encode_base64(bytes), out) == !bytes.empty());
    CHECK(out == bytes);
  }
  for (const char* text : {"YQ", "YQ=", "YQ===", "YR==", "Y!==", "YWI"}) CHECK_FALSE(decode_base64(text, out));
}

TEST_CASE("Metaspace that marks the first word only does so where the text begins") {
  const std::string model = R"({"type": "BPE", "vocab": {"▁": 0, "a": 1, "<s>": 2}, "merges": []})";
  const std::string parts =
      R"("normalizer": {"type": "Nmt"}, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},)"
      R"("added_tokens": [{"id": 2, "content": "<s>", "special": true}],)";
  const auto tokenizer = with_model(model, parts);
  CHECK(tokenizer->encode("a<s>a a", false) == Ids{0, 1, 2, 1, 0, 1});
  CHECK(tokenizer->encode("\x01"
                          "a",
                          false) == Ids{1});  // the text's own beginning is gone
}

TEST_CASE("classes that rebuild the template do so by their own defaults") {
  const std::string file =
      R"({"added_tokens": [{"id": 1, "content": "<|endoftext|>", "special": true}],
          "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}],
                             "special_tokens": {"x": {"ids": [1]}}},
          "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})";
  const auto ids = [&](const char* config) { return Tokenizer::from_json(file, config, "x")->encode("a", true); };
  CHECK(ids("") == Ids{1, 0});
  CHECK(ids(R"({"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": false})") == Ids{1, 0});
  CHECK(ids(R"({"tokenizer_class": "GPTNeoXTokenizer"})") == Ids{0});
  CHECK(ids(R"({"tokenizer_class": "GPTNeoXTokenizerFast", "add_eos_token": true})") == Ids{0, 1});
  CHECK_THROWS_WITH_AS(ids(R"({"tokenizer_class": "CohereTokenizer"})"), doctest::Contains("<BOS_TOKEN> is not in"),
                       Error);
}

TEST_CASE("add_prefix_space of the configuration rules a ByteLevel that stands alone") {
  const std::string file =
      R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true}, "model": {"type": "BPE", "vocab": {"a": 0, "Ġ": 1}, "merges": []}})";
  const auto ids = [&](const char* config) { return Tokenizer::from_json(file, config, "x")->encode("a", false); };
  CHECK(ids("") == Ids{1, 0});
  CHECK(ids(R"({"add_prefix_space": true})") == Ids{1, 0});
  CHECK(ids(R"({"add_prefix_space": false})") == Ids{0});
  CHECK(ids(R"({"model_max_length": 5})") == Ids{0});
}

TEST_CASE("a decoder's marks are one character") {
  const std::string model = R"({"type": "BPE", "vocab": {"a": 0}, "merges": []})";
  CHECK(refusal(model, R"("decoder": {"type": "Strip", "content": "", "start": 9223372036854775807, "stop": 0},)") ==
        "file: decoder: \"content\" should be one character");
  CHECK(refusal(model, R"("decoder": {"type": "Metaspace", "replacement": "ab"},)") ==
        "file: decoder: \"replacement\" should be one character");
  CHECK(refusal(model, R"("decoder": {"type": "BPEDecoder", "suffix": ""},)") ==
        "file: decoder: \"suffix\" should not be empty");
}
