// SPDX-License-Identifier: Apache-2.0
// Answers held to grammars, and bans, through the whole engine.
#include "engine/model_run.h"

namespace sluice {

std::vector<GenerateRequest> constrained_requests(const Golden& golden) {
  using Kind = GrammarSpec::Kind;
  const GrammarSpec grammars[] = {
      {Kind::kJsonSchema, R"({"properties":{"a":{"type":"integer","minimum":10},"b":{"type":"string","maxLength":9}},)"
                          R"("required":["a","b"],"additionalProperties":false})"},
      {Kind::kRegex, "(ab|cd){2,9}x[0-9]+"},
      {Kind::kChoice, R"(["yes","no","yesterday"])"},
      {Kind::kJsonObject, ""},
      {Kind::kEbnf, "root ::= \"(\" root* \")\""},
      {}};
  std::vector<GenerateRequest> requests;
  for (size_t i = 0; i < std::size(grammars); ++i) {
    GenerateRequest r;
    r.prompt.assign(golden.prompt.begin(), golden.prompt.begin() + 4 + static_cast<std::ptrdiff_t>(i) * 3);
    r.max_new_tokens = 60;
    r.want_tokens = r.has_seed = true;
    r.sampling.greedy = i == 2;
    r.sampling.temperature = 1.5f;
    r.sampling.seed = 7 + i;
    r.sampling.n_logprobs = 2;
    r.grammar = grammars[i];
    if (i == 1 || i == 3) r.n = r.best_of = 3;
    requests.push_back(r);
  }
  return requests;
}

TEST_CASE("constrained answers fit, end by themselves, and are the same in every batch, cache and layout") {
  const Golden golden = read_golden("llama2_gqa");
  const std::vector<GenerateRequest> requests = constrained_requests(golden);
  const Outcome expected = run(golden, requests, {});
  const auto tokenizer = Tokenizer::bytes();
  GrammarCompiler compiler(*tokenizer, 256, {2});
  for (size_t i = 0; i + 1 < requests.size(); ++i) {
    const auto runtime =
        std::make_shared<grammar::Runtime>(compiler.compile(requests[i].grammar), compiler.vocabulary());
    for (int32_t choice = 0; choice < requests[i].n; ++choice) {
      const auto& answer = expected.sinks[i]->choices[choice];
      CAPTURE(answer.text);
      CHECK(answer.finish == FinishReason::kEos);
      CHECK(answer.pieces.back().token.id == 2);
      grammar::PlaceId place = grammar::Runtime::kStart;
      for (const auto& piece : answer.pieces)
        if (piece.token.id != 2) place = runtime->advance(place, std::string(1, static_cast<char>(piece.token.id)));
      CHECK(runtime->accepts(place));
    }
  }
  const auto same = [&](const Outcome& other) {
    for (size_t i = 0; i < requests.size(); ++i)
      for (int32_t choice = 0; choice < requests[i].n; ++choice)
        CHECK(tokens_of(*other.sinks[i], choice) == tokens_of(*expected.sinks[i], choice));
  };
  same(run(golden, requests, {.token_budget = 16, .prefix_cache = false, .max_seqs = 2}));
  Outcome tight;  // how many run at once, and whether they run out of cache, is a matter of time
  for (int attempt = 0; attempt < 20 && tight.stats.preemptions == 0; ++attempt) {
    tight = run(golden, requests, {.cache_tokens = 160});
    same(tight);
  }
  CHECK(tight.stats.preemptions > 0);
  same(run(golden, requests, {.tp = 2}));
  same(run(golden, requests, {.pp = 2}));
  for (size_t i = 0; i < requests.size(); ++i) {
    const Outcome alone = run(golden, {requests[i]}, {});
    CHECK(tokens_of(*alone.sinks[0]) == tokens_of(*expected.sinks[i]));
  }
}

TEST_CASE("bans of words and runs of tokens hold in every batch, cache and layout") {
  const Golden golden = read_golden("llama2_gqa");
  std::vector<GenerateRequest> requests;
  for (int32_t i = 0; i < 4; ++i) {
    GenerateRequest r;
    r.prompt.assign(golden.prompt.begin(), golden.prompt.begin() + 5 + i * 4);
    r.max_new_tokens = 40;
    r.ignore_eos = r.want_tokens = r.has_seed = true;
    r.sampling.greedy = i % 2 == 0;
    r.sampling.top_k = 4;  // few tokens: runs come back
    r.sampling.no_repeat_ngram = 2 + i / 2;
    r.sampling.suppress = {7};
    r.bad_words = {"a", "bc"};
    requests.push_back(r);
  }
  const Outcome expected = run(golden, requests, {});
  for (size_t i = 0; i < requests.size(); ++i) {
    std::vector<int32_t> all = requests[i].prompt;
    const auto n = static_cast<size_t>(requests[i].sampling.no_repeat_ngram);
    for (const int32_t id : tokens_of(*expected.sinks[i])) {
      all.push_back(id);
      CHECK(id != 'a');
      CHECK(id != 7);
      CHECK_FALSE((all[all.size() - 2] == 'b' && id == 'c'));
      for (size_t at = 0; at + n < all.size(); ++at)
        REQUIRE_FALSE(std::equal(all.end() - static_cast<std::ptrdiff_t>(n), all.end(),
                                 all.begin() + static_cast<std::ptrdiff_t>(at)));
    }
  }
  for (const Setup& setup :
       {Setup{.token_budget = 16, .max_seqs = 2}, Setup{.cache_tokens = 112}, Setup{.tp = 2}, Setup{.pp = 2}}) {
    const Outcome other = run(golden, requests, setup);
    for (size_t i = 0; i < requests.size(); ++i) CHECK(tokens_of(*other.sinks[i]) == tokens_of(*expected.sinks[i]));
  }
}

}  // namespace sluice
