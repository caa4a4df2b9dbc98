// SPDX-License-Identifier: Apache-2.0
// tests/golden/text: ids and texts of the tokenizers package for each pipeline. Made by tests/golden/make_text.py.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/file.h"
#include "places.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/value.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
std::vector<int32_t> ids_of(const Value& value) {
  std::vector<int32_t> ids;
  for (const Value& id : value.as_list()) ids.push_back(static_cast<int32_t>(id.as_int()));
  return ids;
}

const Value& at(const Value& dict, std::string_view key) {
  const Value* value = dict.find(key);
  REQUIRE_MESSAGE(value != nullptr, key);
  return *value;
}

// Where a golden leaves `key` out, it is what `otherwise` says.
const std::string& text_at(const Value& dict, std::string_view key, const std::string& otherwise) {
  const Value* value = dict.find(key);
  return value == nullptr ? otherwise : value->as_string();
}

std::string stream(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip) {
  Detokenizer detokenizer(tokenizer, skip);
  std::string text;
  for (const int32_t id : ids) detokenizer.append(id, text);
  detokenizer.finish(text);
  return text;
}

std::vector<fs::path> pipelines() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(test::source_dir() / "tests/golden/text")) {
    if (fs::exists(entry.path() / "golden.json")) found.push_back(entry.path());
  }
  return found;
}
}  // namespace

TEST_CASE("each pipeline encodes as the tokenizers package does") {
  const auto found = pipelines();
  REQUIRE(found.size() >= 13);
  for (const fs::path& path : found) {
    CAPTURE(path.filename().string());
    const auto tokenizer = Tokenizer::load(path);
    const Value golden = Value::parse_json(read_file(path / "golden.json"));
    const List& cases = at(golden, "encode").as_list();
    REQUIRE(cases.size() > 20);
    for (const Value& one : cases) {
      const std::string& text = at(one, "text").as_string();
      CAPTURE(text);
      CHECK(tokenizer->encode(text, false) == ids_of(at(one, "ids")));
      const std::vector<int32_t> ids = ids_of(at(one, "ids_special"));
      CHECK(tokenizer->encode(text, true) == ids);
      const std::string& decoded = text_at(one, "decoded", text);
      CHECK(tokenizer->decode(ids, false) == decoded);
      CHECK(tokenizer->decode(ids, true) == text_at(one, "decoded_skip", decoded));
      CHECK(stream(*tokenizer, ids, false) == decoded);
    }
  }
}

TEST_CASE("each pipeline decodes random ids as the tokenizers package does") {
  for (const fs::path& path : pipelines()) {
    CAPTURE(path.filename().string());
    const auto tokenizer = Tokenizer::load(path);
    const Value golden = Value::parse_json(read_file(path / "golden.json"));
    const List& cases = at(golden, "decode").as_list();
    REQUIRE(cases.size() > 10);
    for (const Value& one : cases) {
      const std::vector<int32_t> ids = ids_of(at(one, "ids"));
      const std::string& text = at(one, "text").as_string();
      CHECK(tokenizer->decode(ids, false) == text);
      CHECK(tokenizer->decode(ids, true) == text_at(one, "text_skip", text));
    }
  }
}

TEST_CASE("pipelines of every component encode and decode as the tokenizers package does") {
  const Value golden = Value::parse_json(read_file(test::source_dir() / "tests/golden/text/pipelines.json"));
  const List& texts = at(golden, "texts").as_list();
  REQUIRE(at(golden, "pipelines").as_dict().size() >= 26);
  for (const auto& [name, pipeline] : at(golden, "pipelines").as_dict().entries()) {
    CAPTURE(name);
    Dict file;
    for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"})
      file.set(key, at(pipeline, key));
    file.set("model", at(at(golden, "models"), at(pipeline, "model").as_string()));
    const auto tokenizer = Tokenizer::from_json(Value(std::move(file)).dump_json(), "", name);
    const List &ids = at(pipeline, "ids").as_list(), &special = at(pipeline, "special").as_list();
    const List& decoded = at(pipeline, "decoded").as_list();
    REQUIRE(ids.size() == texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::string& text = texts[i].as_string();
      CAPTURE(text);
      CHECK(tokenizer->encode(text, false) == ids_of(ids[i]));
      const std::vector<int32_t> all = tokenizer->encode(text, true);
      if (i < special.size()) CHECK(all == ids_of(special[i]));
      if (i % 2 == 0) {
        CHECK(tokenizer->decode(all, true) == decoded[i / 2].as_string());
        CHECK(stream(*tokenizer, all, true) == decoded[i / 2].as_string());
      }
    }
    for (const Value& one : at(pipeline, "decode").as_list()) {
      const std::vector<int32_t> drawn = ids_of(one.as_list()[0]);
      CHECK(tokenizer->decode(drawn, false) == one.as_list()[1].as_string());
    }
  }
}
