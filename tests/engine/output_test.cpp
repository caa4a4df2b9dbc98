// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>

#include "engine/engine.h"
#include "engine/recording_sink.h"
#include "engine/script_executor.h"

namespace sluice {
namespace {

std::shared_ptr<RecordingSink> run(ScriptExecutor::Script script, GenerateRequest request) {
  const auto tokenizer = Tokenizer::bytes();
  EngineOptions options;
  options.token_budget = 16;
  Engine engine(options, std::make_unique<ScriptExecutor>(8, 16, 256, 64, std::move(script)), *tokenizer);
  auto sink = std::make_shared<RecordingSink>();
  engine.submit(std::move(request), sink);
  REQUIRE(sink->wait_end());
  CHECK(engine.drain(5));
  CHECK(sink->broken == 0);
  CHECK(sink->ends == 1);
  return sink;
}

GenerateRequest ask(int32_t n_new) {
  GenerateRequest r;
  r.prompt = {'Q', ':'};
  r.max_new_tokens = n_new;
  return r;
}

}  // namespace

TEST_CASE("a stop string that spans tokens ends the text before it") {
  GenerateRequest r = ask(40);
  r.stop = {"", "END", "never"};
  const auto sink = run(say("one ENtwo END three", 2), r);
  CHECK(sink->choices[0].text == "one ENtwo ");
  CHECK(sink->choices[0].finish == FinishReason::kStop);
  CHECK(sink->choices[0].stop_text == "END");
  CHECK(sink->choices[0].stop_id == -1);
  CHECK(sink->usage.generated_tokens == 13);
}

TEST_CASE("the stop string stays in the text where that is asked for") {
  GenerateRequest r = ask(40);
  r.stop = {"END"};
  r.keep_stop_text = true;
  CHECK(run(say("two END three", 2), r)->choices[0].text == "two END");
}

TEST_CASE("text held back for a stop string comes out at the length limit") {
  GenerateRequest r = ask(6);
  r.stop = {"END"};
  const auto sink = run(say("two EN", 2), r);
  CHECK(sink->choices[0].text == "two EN");
  CHECK(sink->choices[0].finish == FinishReason::kLength);
}

TEST_CASE("an answer in channels is content and reasoning, also of the best of several and before a stop string") {
  const char* answer =
      "<|channel|>analysis<|message|>Add.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.$";
  GenerateRequest r = ask(200);
  r.channels = true;
  auto sink = run(say(answer, 2), r);
  CHECK(sink->choices[0].text == "It is 4.");
  CHECK(sink->choices[0].reasoning == "Add.");
  CHECK(sink->choices[0].finish == FinishReason::kEos);
  r.best_of = 2;
  sink = run(say(answer, 2), r);
  CHECK(sink->choices[0].text == "It is 4.");
  CHECK(sink->choices[0].reasoning == "Add.");
  r.best_of = 1;
  r.stop = {" is"};
  CHECK(run(say(answer, 2), r)->choices[0].text == "It");
  r.stop = {};
  r.channels = false;
  CHECK(run(say(answer, 2), r)->choices[0].text.starts_with("<|channel|>analysis"));
}

TEST_CASE("an end-of-sequence token ends the choice and is not text") {
  auto sink = run(say("abc$def", 2), ask(40));
  CHECK(sink->choices[0].text == "abc");
  CHECK(sink->choices[0].finish == FinishReason::kEos);
  CHECK(sink->usage.generated_tokens == 4);
  GenerateRequest r = ask(7);
  r.ignore_eos = true;
  sink = run(say("abc$def", 2), r);
  CHECK(sink->choices[0].text == "abcdef");
  CHECK(sink->choices[0].finish == FinishReason::kLength);
}

TEST_CASE("a stop id ends the choice and is named") {
  GenerateRequest r = ask(40);
  r.stop_ids = {'c'};
  auto sink = run(say("abcdef", 2), r);
  CHECK(sink->choices[0].text == "ab");
  CHECK(sink->choices[0].finish == FinishReason::kStop);
  CHECK(sink->choices[0].stop_id == 'c');
  r.keep_stop_text = true;
  CHECK(run(say("abcdef", 2), r)->choices[0].text == "abc");
}

TEST_CASE("a character of several tokens arrives whole") {
  const auto sink = run(say("a\xe2\x82\xac!", 2), ask(5));
  const auto& c = sink->choices[0];
  REQUIRE(c.pieces.size() == 5);
  CHECK(c.pieces[1].text.empty());
  CHECK(c.pieces[2].text.empty());
  CHECK(c.pieces[3].text == "\xe2\x82\xac");
  CHECK(c.text == "a\xe2\x82\xac!");
}

TEST_CASE("n choices come from one prompt, each with its own draws") {
  GenerateRequest r = ask(5);
  r.n = r.best_of = 4;
  r.has_seed = true;
  r.sampling.seed = 9;
  const auto sink = run(
      [](int32_t, uint64_t seed, int32_t choice) {
        SampledToken t;
        t.token = 'a' + choice + (seed == 9 ? 0 : 10);
        return t;
      },
      r);
  REQUIRE(sink->choices.size() == 4);
  for (int32_t i = 0; i < 4; ++i) CHECK(sink->choices[i].text == std::string(5, static_cast<char>('a' + i)));
  CHECK(sink->usage.generated_tokens == 20);
  CHECK(sink->usage.prompt_tokens == 2);
}

TEST_CASE("best_of returns the choices with the highest mean log probability, best first") {
  GenerateRequest r = ask(5);
  r.n = 2;
  r.best_of = 4;
  r.want_tokens = true;
  const float score[] = {-3, -1, -2, -1};
  const auto sink = run(
      [&](int32_t, uint64_t, int32_t choice) {
        SampledToken t;
        t.token = 'a' + choice;
        t.logprob = score[choice];
        return t;
      },
      r);
  REQUIRE(sink->choices.size() == 2);
  CHECK(sink->choices[0].text == "bbbbb");
  CHECK(sink->choices[1].text == "ddddd");
  CHECK(sink->choices[1].pieces[4].token.id == 'd');
  CHECK(sink->choices[1].finish == FinishReason::kLength);
  CHECK(sink->usage.generated_tokens == 20);
}

TEST_CASE("token details carry id, text, log probability and alternatives") {
  GenerateRequest r = ask(2);
  r.want_tokens = true;
  r.sampling.n_logprobs = 2;
  const auto sink = run(
      [](int32_t, uint64_t, int32_t) {
        SampledToken t;
        t.token = 'k';
        t.logprob = -0.25f;
        t.n_top = 2;
        t.top_ids[0] = 'k';
        t.top_logprobs[0] = -0.25f;
        t.top_ids[1] = 256;
        t.top_logprobs[1] = -4;
        return t;
      },
      r);
  const TokenInfo& t = sink->choices[0].pieces[1].token;
  CHECK(t.id == 'k');
  CHECK(t.text == "k");
  CHECK(t.logprob == -0.25f);
  CHECK_FALSE(t.special);
  REQUIRE(t.top.size() == 2);
  CHECK(t.top[1].id == 256);
  CHECK(t.top[1].special);
  CHECK(t.top[1].logprob == -4);
}

TEST_CASE("prompt log probabilities cover every prompt token, the first without one") {
  GenerateRequest r = ask(3);
  for (int i = 0; i < 50; ++i) r.prompt.push_back('a' + i % 26);
  r.prompt_logprobs = 0;
  const auto sink = run(
      [](int32_t position, uint64_t, int32_t) {
        SampledToken t;
        t.token = 'z';
        t.logprob = -static_cast<float>(position);
        return t;
      },
      r);
  CHECK(sink->prompts == 1);
  REQUIRE(sink->prompt.size() == 52);
  CHECK(std::isnan(sink->prompt[0].logprob));
  for (size_t i = 0; i < 52; ++i) {
    CHECK(sink->prompt[i].id == r.prompt[i]);
    if (i > 0) CHECK(sink->prompt[i].logprob == -static_cast<float>(i));
  }
  CHECK(sink->choices[0].text == "zzz");
}

}  // namespace sluice
