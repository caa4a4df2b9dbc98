// SPDX-License-Identifier: Apache-2.0
#include "text/detokenizer.h"
#include "places.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <random>

#include "base/file.h"
#include "text/unicode.h"
#include "text/value.h"

using namespace sluice;
using Ids = std::vector<int32_t>;

namespace {
std::unique_ptr<Tokenizer> golden(const char* name) {
  return Tokenizer::load(test::source_dir() / "tests/golden/text" / name);
}

std::string feed(Detokenizer& detokenizer, std::span<const int32_t> ids) {
  std::string out;
  for (const int32_t id : ids) {
    detokenizer.append(id, out);
    REQUIRE(is_utf8(out));
    REQUIRE(detokenizer.held() <= 3);
  }
  detokenizer.finish(out);
  return out;
}

// True for sequences with a run of byte tokens that starts well-formed and then breaks: the documented exception.
bool breaks_late(const Tokenizer& tokenizer, const Ids& ids, bool skip) {
  std::string run;
  const auto late = [&] { return !is_utf8(run) && utf8_state(run.data(), 1) >= 0; };
  for (const int32_t id : ids) {
    if (skip && tokenizer.is_special(id)) continue;
    const std::string& text = tokenizer.token_text(id);
    if (text.size() == 6 && text.starts_with("<0x")) {
      run += static_cast<char>(std::stoi(text.substr(3, 2), nullptr, 16));
    } else {
      if (late()) return true;
      run.clear();
    }
  }
  return late();
}
}  // namespace

TEST_CASE("streamed text equals offline text over random ids") {
  std::mt19937 random(1);
  for (const char* name : {"llama3", "gpt2", "qwen2", "llama_legacy", "llama_metaspace", "added_flags", "unk_fused"}) {
    CAPTURE(name);
    const auto tokenizer = golden(name);
    int compared = 0;
    for (int round = 0; round < 3000; ++round) {
      Ids ids(random() % 12);
      const bool low = random() % 2 == 0;  // the low ids hold the bytes
      for (int32_t& id : ids)
        id = static_cast<int32_t>(random() % (low ? 262u : static_cast<unsigned>(tokenizer->vocab_size())));
      const bool skip = random() % 2 == 0;
      if (breaks_late(*tokenizer, ids, skip)) continue;
      ++compared;
      Detokenizer detokenizer(*tokenizer, skip);
      REQUIRE(feed(detokenizer, ids) == tokenizer->decode(ids, skip));
    }
    CHECK(compared > 1000);
  }
}

TEST_CASE("streamed text equals offline text for every decoder, at every split") {
  const Value file = Value::parse_json(read_file(test::source_dir() / "tests/golden/text/pipelines.json"));
  std::mt19937 random(2);
  for (const char* name :
       {"falcon", "gemma", "phi3", "t5", "unigram_bytes", "bert", "bert_cased", "wordlevel", "clip", "prefix"}) {
    CAPTURE(name);
    const Value& pipeline = *file.find("pipelines")->find(name);
    Dict json;
    for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"})
      json.set(key, *pipeline.find(key));
    json.set("model", *file.find("models")->find(pipeline.find("model")->as_string()));
    const auto tokenizer = Tokenizer::from_json(Value(std::move(json)).dump_json(), "", name);
    int compared = 0;
    for (int round = 0; round < 800; ++round) {
      Ids ids(random() % 10);
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<unsigned>(tokenizer->vocab_size()));
      const bool skip = random() % 2 == 0;
      if (breaks_late(*tokenizer, ids, skip)) continue;
      ++compared;
      const std::string whole = tokenizer->decode(ids, skip);
      Detokenizer one(*tokenizer, skip);
      REQUIRE(feed(one, ids) == whole);
      for (size_t split = 0; split <= ids.size(); ++split) {
        const std::span<const int32_t> prompt(ids.data(), split), rest(ids.data() + split, ids.size() - split);
        std::string before;
        Detokenizer head(*tokenizer, skip), tail(*tokenizer, skip, prompt);
        for (const int32_t id : prompt) head.append(id, before);
        REQUIRE(before + feed(tail, rest) == whole);
      }
    }
    CHECK(compared > 300);
  }
}

TEST_CASE("after a prompt the output is what the whole adds to it, at every split") {
  const std::string text = "Hello  world, it's 😀👍 time\n\n for 中文 and \"quotes\" 12345.";
  for (const char* name : {"llama3", "qwen2", "llama_legacy", "llama_metaspace"}) {
    CAPTURE(name);
    const auto tokenizer = golden(name);
    const Ids ids = tokenizer->encode(text, true);
    const std::string whole = tokenizer->decode(ids, true);
    CHECK(whole == text);
    for (size_t split = 0; split <= ids.size(); ++split) {
      const std::span<const int32_t> prompt(ids.data(), split), rest(ids.data() + split, ids.size() - split);
      std::string before;
      Detokenizer head(*tokenizer, true);
      for (const int32_t id : prompt) head.append(id, before);  // complete characters only
      Detokenizer tail(*tokenizer, true, prompt);
      CHECK(before + feed(tail, rest) == whole);
    }
  }
}

TEST_CASE("the first generated token keeps its leading space after a prompt and loses it without") {
  const auto tokenizer = golden("llama_legacy");
  const Ids ids = tokenizer->encode("Hello world", false);
  Detokenizer fresh(*tokenizer);
  CHECK(feed(fresh, ids) == "Hello world");
  const int32_t the = tokenizer->encode("the", false).at(0);
  REQUIRE(tokenizer->token_text(the).starts_with("▁"));
  fresh.reset(ids);
  CHECK(feed(fresh, Ids{the}).starts_with(" "));
  fresh.reset();
  CHECK_FALSE(feed(fresh, Ids{the}).starts_with(" "));
}

TEST_CASE("an emoji over four byte tokens appears whole, and a broken tail as replacement characters") {
  const auto legacy = golden("llama_legacy"), bytes = Tokenizer::bytes();
  const auto fallback = [&](std::initializer_list<const char*> names) {
    Ids ids;
    for (const char* name : names) ids.push_back(legacy->token_id(name).value());
    return ids;
  };
  const Ids emoji = fallback({"<0xF0>", "<0x9F>", "<0x98>", "<0x80>"});
  Detokenizer detokenizer(*legacy);
  std::string out;
  for (size_t i = 0; i < 4; ++i) {
    detokenizer.append(emoji[i], out);
    CHECK(out == (i < 3 ? "" : "😀"));
  }
  detokenizer.reset();
  CHECK(feed(detokenizer, std::span(emoji).first(3)) == "\uFFFD\uFFFD\uFFFD");  // one per byte
  Detokenizer level(*bytes);
  CHECK(feed(level, Ids{0xF0, 0x9F, 0x98}) == "\uFFFD");  // one per maximal part
  level.reset();
  CHECK(feed(level, Ids{0xF0, 0x9F, 'a', 0xFF, 0xC3, 0xC3, 0xA9}) == "\uFFFDa\uFFFD\uFFFDé");
}

TEST_CASE("special tokens are skipped or shown") {
  const auto tokenizer = golden("llama3");
  const Ids ids = tokenizer->encode("a<|eot_id|>b", true);
  Detokenizer skipping(*tokenizer, true), showing(*tokenizer, false);
  CHECK(feed(skipping, ids) == "ab");
  CHECK(feed(showing, ids) == "<|begin_of_text|>a<|eot_id|>b");
}
