// SPDX-License-Identifier: Apache-2.0
// tests/golden/text: ids and texts of the tokenizers package for each pipeline. Made by tests/golden/make_text.py.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/file.h"
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

std::string stream(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip) {
  Detokenizer detokenizer(tokenizer, skip);
  std::string text;
  for (const int32_t id : ids) detokenizer.append(id, text);
  detokenizer.finish(text);
  return text;
}

std::vector<fs::path> pipelines() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(fs::path(SLUICE_SOURCE_DIR) / "tests/golden/text")) {
    if (fs::exists(entry.path() / "golden.json")) found.push_back(entry.path());
  }
  return found;
}
}  // namespace

TEST_CASE("each pipeline encodes as the tokenizers package does") {
  const auto found = pipelines();
  REQUIRE(found.size() >= 7);
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
      CHECK(tokenizer->decode(ids, false) == at(one, "decoded").as_string());
      CHECK(tokenizer->decode(ids, true) == at(one, "decoded_skip").as_string());
      CHECK(stream(*tokenizer, ids, false) == at(one, "decoded").as_string());
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
      CHECK(tokenizer->decode(ids, false) == at(one, "text").as_string());
      CHECK(tokenizer->decode(ids, true) == at(one, "text_skip").as_string());
    }
  }
}
