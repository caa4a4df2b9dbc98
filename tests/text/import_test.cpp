// SPDX-License-Identifier: Apache-2.0
// What importers refuse and fill in. Ids are checked against the reference packages by tokenizer_golden_test.cpp.
#include "text/import.h"
#include "places.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "text/tokenizer.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
const fs::path kGolden = test::source_dir() / "tests/golden/text";
const Value kNone = Value(Dict{});

template <class Import>
std::string refusal(const Import& import) {
  try {
    import();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

// A folder of its own with these files.
struct Folder {
  explicit Folder(std::initializer_list<std::pair<const char*, std::string>> files) {
    std::string name = fs::temp_directory_path() / "sluice-import-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
    for (const auto& [file, content] : files) replace_file(path / file, content);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

Value json(const char* text) { return Value::parse_json(text); }

std::string merges_refusal(const std::string& merges, const char* config = "{}") {
  const Value vocab = json(R"({"a": 0, "b": 1, "ab": 2, "#": 3, "##": 4})");
  return refusal([&] { import_merges(vocab, merges, Value(), json(config), "merges.txt"); });
}

// Protocol buffer fields.
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}
std::string number(uint64_t field, uint64_t value) { return varint(field << 3) + varint(value); }
std::string bytes(uint64_t field, const std::string& content) {
  return varint(field << 3 | 2) + varint(content.size()) + content;
}
std::string piece(const std::string& text, uint64_t type = 1) {
  return bytes(1, bytes(1, text) + varint(2 << 3 | 5) + std::string(4, '\0') + number(3, type));
}
const std::string kPieces = piece("<unk>", 2) + piece("<s>", 3) + piece("</s>", 3) + piece("a") + piece("b");
const std::string kBpe = bytes(2, number(3, 2));

std::string model_refusal(const std::string& model, const char* config = "{}") {
  return refusal([&] { import_sentencepiece(model, json(config), "tokenizer.model"); });
}
std::string ranks_refusal(const std::string& ranks, const char* config = "{}") {
  return refusal([&] { import_tiktoken(ranks, json(config), "tokenizer.model"); });
}

// One line per byte, in order of the bytes.
std::string byte_ranks() {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (unsigned b = 0; b < 256; ++b) out += fmt::format("{}{}== {}\n", kDigits[b >> 2], kDigits[(b & 3) << 4], b);
  return out;
}
}  // namespace

TEST_CASE("a folder without any tokenizer is refused with what was expected") {
  const Folder empty({});
  CHECK(refusal([&] {
          Tokenizer::load(empty.path);
        }).find("has no tokenizer.json, vocab.json with merges.txt, tokenizer.model or spiece.model") !=
        std::string::npos);
  const Folder half({{"vocab.json", "{}"}});
  CHECK_FALSE(import_tokenizer(half.path, kNone).has_value());
}

TEST_CASE("GPT-2 files name their special token and lose no merge that looks like a comment") {
  const auto tokenizer = Tokenizer::load(kGolden / "import_gpt2");
  CHECK(tokenizer->eos_id() == tokenizer->token_id("<|endoftext|>"));
  CHECK(tokenizer->encode("##", false).size() == 1);
  CHECK(tokenizer->is_special(*tokenizer->eos_id()));
  const Value vocab = json(R"({"#": 0, "##": 1})");
  for (const char* merges : {"#version: 0.2\n# #\n", "# #\n", "#version: 0.2\r\n# #\r\n", "# #"}) {
    const ImportedTokenizer imported = import_merges(vocab, merges, Value(), kNone, "merges.txt");
    CHECK(imported.json.find("model")->find("merges")->as_list().size() == 1);
  }
}

TEST_CASE("damaged vocab.json and merges.txt are refused with file, line and what was found") {
  CHECK(merges_refusal("#version: 0.2\na b\nab\n") ==
        "merges.txt: line 3: expected two tokens with one space between, found \"ab\"");
  CHECK(merges_refusal("a  b\n") == "merges.txt: line 1: expected two tokens with one space between, found \"a  b\"");
  CHECK(merges_refusal("a b ab\n").find("line 1: expected two tokens") != std::string::npos);
  CHECK(merges_refusal("a #\n") == "merges.txt: line 1: token a# is not in vocab.json");
  CHECK(merges_refusal("a c\n") == "merges.txt: line 1: token c is not in vocab.json");
  CHECK(merges_refusal("\xff b\n") == "merges.txt: line 1: expected UTF-8 text");
  CHECK(merges_refusal("a b\n", R"({"tokenizer_class": "RobertaTokenizer"})")
            .find("tokenizer_class is RobertaTokenizer, expected GPT2Tokenizer") != std::string::npos);
  CHECK(merges_refusal("a b\n", R"({"add_bos_token": true, "bos_token": "<s>"})") ==
        "merges.txt: add_bos_token is set but bos_token <s> is not in the vocabulary");
  const Value vocab = json(R"({"a": 0})");
  CHECK(refusal([&] { import_merges(vocab, "", json(R"({"x": "1"})"), kNone, "merges.txt"); }) ==
        "added_tokens.json beside merges.txt: token x is \"1\", expected an id");
  const Folder list({{"vocab.json", "[]"}, {"merges.txt", ""}});
  CHECK(refusal([&] { Tokenizer::load(list.path); }).find("vocab.json: expected a JSON object") != std::string::npos);
  const Folder text({{"vocab.json", R"({"a": "b"})"}, {"merges.txt", ""}});
  CHECK(refusal([&] { Tokenizer::load(text.path); }).find("id of token a is out of range") != std::string::npos);
}

TEST_CASE("a SentencePiece model of another type, class or normalisation is refused by name") {
  CHECK(model_refusal(kPieces + kBpe) == "nothing was refused");
  CHECK(model_refusal(kPieces) == "nothing was refused");  // Unigram is the format's default
  CHECK(model_refusal(kPieces, R"({"tokenizer_class": "LlamaTokenizer"})")
            .find("type UNIGRAM and tokenizer_class LlamaTokenizer, expected T5Tokenizer") != std::string::npos);
  CHECK(model_refusal(kPieces, R"({"extra_ids": -1})").find("extra_ids is -1, expected 0 to") != std::string::npos);
  CHECK(model_refusal(piece("a")).find("no piece </s>") != std::string::npos);
  const Folder damaged({{"spiece.model", kPieces + bytes(3, bytes(2, "map"))}});
  CHECK(refusal([&] {
          Tokenizer::load(damaged.path);
        }).find("\"precompiled_charsmap\" is damaged: expected at least 8 bytes, found 3") != std::string::npos);
  CHECK(model_refusal(kPieces + bytes(2, number(3, 4))).find("of type CHAR") != std::string::npos);
  CHECK(model_refusal(kPieces + bytes(2, number(3, 99))).find("of type 99") != std::string::npos);
  CHECK(model_refusal(kPieces + kBpe + bytes(3, bytes(2, "map"))).find("precompiled_charsmap") != std::string::npos);
  CHECK(model_refusal(kPieces + kBpe + bytes(3, number(5, 0))).find("escape_whitespaces") != std::string::npos);
  CHECK(model_refusal(kPieces + bytes(2, number(3, 2) + number(24, 1))).find("treat_whitespace_as_suffix") !=
        std::string::npos);
  CHECK(model_refusal(kPieces + bytes(2, number(3, 2) + number(40, 5))).find("unk_id is 5, expected one of the 5") !=
        std::string::npos);
  CHECK(model_refusal(kPieces + kBpe, R"({"tokenizer_class": "XLNetTokenizer"})")
            .find("tokenizer_class is XLNetTokenizer, expected LlamaTokenizer") != std::string::npos);
}

TEST_CASE("a damaged SentencePiece model is refused with the place") {
  CHECK(model_refusal("") == "tokenizer.model: not a SentencePiece model: it holds no pieces");
  CHECK(model_refusal(piece("a") + piece("a") + kBpe) == "tokenizer.model: pieces 0 and 1 are both a");
  CHECK(model_refusal(piece("") + kBpe) == "tokenizer.model: piece 0: expected a text, found none");
  CHECK(model_refusal(piece("\xff") + kBpe) == "tokenizer.model: piece 0: expected UTF-8 text");
  CHECK(model_refusal(piece(std::string(300, 'a')) + kBpe).find("300 bytes, expected at most 256") !=
        std::string::npos);
  CHECK(model_refusal(piece("a", 5)).find("a is of type UNUSED") != std::string::npos);
  CHECK(model_refusal(piece("a", 7)).find("type 7, expected 1 to 6") != std::string::npos);
  CHECK(model_refusal(bytes(1, bytes(1, "a") + varint(2 << 3 | 5) + "\xff\xff\xff\x7f")) ==
        "tokenizer.model: piece 0: the score is not a number");
  CHECK(model_refusal(varint(1 << 3 | 2) + varint(1000) + "abc")
            .find("byte 3: not a SentencePiece model: a field of "
                  "1000 bytes, 3 are left") != std::string::npos);
  CHECK(model_refusal("\x0b").find("wire type 3") != std::string::npos);
  CHECK(model_refusal(std::string(1, '\0') + "a").find("field number 0") != std::string::npos);
  CHECK(model_refusal("\x08" + std::string(11, '\xff')).find("more than 64 bits") != std::string::npos);
  CHECK(model_refusal("version https://git-lfs.github.com/spec/v1\n").find("not a SentencePiece model") !=
        std::string::npos);
  // Any beginning of a real file, and any single damaged byte, is refused or read; it never crashes.
  const std::string whole = read_file(kGolden / "import_spm/tokenizer.model");
  // Where the specifications at the end are cut off it reads as Unigram, the format's default: LlamaTokenizer is not.
  int refused = 0;
  for (size_t size = 0; size < whole.size(); size += 7)
    refused +=
        model_refusal(whole.substr(0, size), R"({"tokenizer_class": "LlamaTokenizer"})") != "nothing was refused";
  CHECK(refused == static_cast<int>((whole.size() + 6) / 7));
  for (size_t at = 0; at < 2000; at += 3) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0xff);
    CHECK_FALSE(model_refusal(damaged).empty());
  }
}

TEST_CASE("duplicate, leading and trailing spaces go where a SentencePiece model says so") {
  const Folder folder({{"tokenizer.model", kPieces + piece("\xE2\x96\x81") + kBpe}});
  const auto tokenizer = Tokenizer::load(folder.path);
  CHECK(tokenizer->encode("  a   b ", false) == std::vector<int32_t>{5, 3, 5, 4});
  CHECK(tokenizer->encode("a", true) == std::vector<int32_t>{1, 5, 3});
  CHECK(tokenizer->eos_id() == 2);
}

TEST_CASE("a tiktoken file has Llama 3's special tokens and one that is damaged is refused with the line") {
  const std::string ranks = byte_ranks();
  const Folder folder({{"tokenizer.model", ranks}});
  const auto tokenizer = Tokenizer::load(folder.path);
  CHECK(tokenizer->vocab_size() == 512);
  CHECK(tokenizer->bos_id() == 256);
  CHECK(tokenizer->token_id("<|reserved_special_token_0|>") == 258);
  CHECK(tokenizer->token_id("<|eot_id|>") == 265);
  CHECK(tokenizer->token_id("<|reserved_special_token_2|>") == 267);
  CHECK(tokenizer->token_id("<|reserved_special_token_246|>") == 511);
  CHECK(tokenizer->encode("a<|eot_id|>", true) == std::vector<int32_t>{256, 97, 265});

  CHECK(ranks_refusal(ranks + "YWI=\n") ==
        "tokenizer.model: line 257: expected a rank after the token, found \"YWI=\"");
  CHECK(ranks_refusal(ranks + "YWI 256\n") ==
        "tokenizer.model: line 257: expected a token in base64, found \"YWI 256\"");
  CHECK(ranks_refusal(ranks + "YW!= 256\n").find("line 257: expected a token in base64") != std::string::npos);
  CHECK(ranks_refusal(ranks + "YWJ= 256\n").find("line 257: expected a token in base64") != std::string::npos);
  CHECK(ranks_refusal(ranks + "YWI= -1\n").find("line 257: expected a rank") != std::string::npos);
  CHECK(ranks_refusal(ranks + "YWI= 99999999999999999999\n").find("line 257: expected a rank") != std::string::npos);
  CHECK(ranks_refusal(ranks + "YQ== 256\n") == "tokenizer.model: line 257: the token occurs twice");
  CHECK(ranks_refusal(ranks + "YWI= 7\n") == "tokenizer.model: line 257: rank 7 is that of line 8 already");
  CHECK(ranks_refusal(ranks + "YWI= 300\n") == "tokenizer.model: 257 tokens have ranks up to 300, expected no gaps");
  CHECK(ranks_refusal("YWI= 0\n") == "tokenizer.model: byte 0 has no token, expected all 256");
  CHECK(ranks_refusal(ranks, R"({"bos_token": "<s>"})") ==
        "tokenizer.model: bos_token <s> of tokenizer_config.json is not among the special tokens");
  std::string longest;
  for (int i = 0; i < 100; ++i) longest += "YWFh";
  CHECK(ranks_refusal(ranks + longest + " 256\n") ==
        "tokenizer.model: line 257: a token of 300 bytes, expected at most 256");
}

TEST_CASE("a Unigram model becomes T5's tokenizer: sentinels after the pieces, </s> at the end") {
  const Folder folder({{"spiece.model", kPieces + piece("\xE2\x96\x81") +
                                            piece("\xE2\x96\x81"
                                                  "ab")},
                       {"tokenizer_config.json", R"({"extra_ids": 2})"}});
  const auto tokenizer = Tokenizer::load(folder.path);
  CHECK(tokenizer->vocab_size() == 10);  // T5 names a <pad>, which is added last
  CHECK(tokenizer->token_id("<extra_id_1>") == 7);
  CHECK(tokenizer->token_id("<extra_id_0>") == 8);
  CHECK(tokenizer->is_special(8));
  CHECK(tokenizer->encode("ab<extra_id_0>a", true) == std::vector<int32_t>{6, 8, 5, 3, 2});
  CHECK(tokenizer->decode(std::vector<int32_t>{6, 6, 2}, true) == "ab ab");
}
