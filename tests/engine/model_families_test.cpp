// SPDX-License-Identifier: Apache-2.0
// Every family through the whole engine, those with an encoder too.
#include "engine/model_run.h"

namespace sluice {

TEST_CASE("every case gives the same samples over tensor and pipeline ranks") {
  for (const std::string& name : test::golden_cases()) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    const std::vector<GenerateRequest> sampled = sampled_requests(golden);
    Setup setup;
    setup.max_context = 160;  // of the smallest
    setup.dtype = "float32";
    const Outcome one = run(golden, sampled, setup);
    for (const auto& layout : {std::pair{2, 1}, std::pair{3, 1}, std::pair{4, 1}, std::pair{1, 2}, std::pair{2, 2}}) {
      const int tp = layout.first, pp = layout.second;
      CAPTURE(tp);
      CAPTURE(pp);
      setup.tp = tp;
      setup.pp = pp;
      const Outcome many = run(golden, sampled, setup);
      for (size_t i = 0; i < sampled.size(); ++i)
        for (int32_t c = 0; c < sampled[i].n; ++c) CHECK(tokens_of(*many.sinks[i], c) == tokens_of(*one.sinks[i], c));
    }
  }
}

TEST_CASE("an encoder's prompt gives the reference's tokens, whatever the layout and the cache") {
  for (const char* name : {"t5/flan", "t5/tied"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    std::vector<GenerateRequest> requests(6);
    for (size_t i = 0; i < requests.size(); ++i) {
      GenerateRequest& r = requests[i];
      r.prompt = golden.encoder;
      if (i % 2 == 1) std::reverse(r.prompt.begin(), r.prompt.end());  // others in the batch
      r.max_new_tokens = 64;
      r.n = r.best_of = i == 2 ? 3 : 1;
      r.ignore_eos = r.want_tokens = true;
    }
    const auto check_free = [&](const Setup& setup) {
      const Outcome outcome = run(golden, requests, setup);
      for (size_t i = 0; i < requests.size(); i += 2)
        for (int32_t c = 0; c < requests[i].n; ++c) CHECK(tokens_of(*outcome.sinks[i], c) == golden.free_greedy);
      CHECK(outcome.sinks[0]->usage.prompt_tokens == static_cast<int32_t>(golden.encoder.size()));
      CHECK(outcome.stats.cached_tokens == 0);
      return outcome.stats;
    };
    Setup setup;
    setup.dtype = "float32";
    setup.token_budget = 160;
    CHECK(check_free(setup).preemptions == 0);
    setup.tp = 2;
    check_free(setup);
    setup.pp = 2;
    check_free(setup);
    setup.tp = setup.pp = 1;
    setup.cache_tokens = 160;
    CHECK(check_free(setup).preemptions > 0);
  }
}

TEST_CASE("with an encoder the limits hold for prompt and answer apart") {
  Setup setup;
  setup.token_budget = 40;
  setup.max_context = 32;
  OneRank rank(read_golden("t5/tied"), setup);
  Engine& engine = rank.engine;
  CHECK(engine.info().limits.max_encoder == 32);
  const auto ask = [&](size_t prompt, int32_t answer, bool scores = false) {
    GenerateRequest r;
    r.prompt.assign(prompt, 5);
    r.max_new_tokens = answer;
    r.ignore_eos = true;
    if (scores) r.prompt_logprobs = 0;
    const auto sink = std::make_shared<RecordingSink>();
    engine.submit(r, sink);
    CHECK(sink->wait_end(60));
    CHECK(sink->error.empty());
  };
  ask(32, 31);
  CHECK_THROWS_WITH_AS(ask(33, 1), doctest::Contains("33 tokens, but 32 are the limit"), RequestError);
  CHECK_THROWS_WITH_AS(ask(1, 32), doctest::Contains("32 new tokens exceed the limit of 31"), RequestError);
  CHECK_THROWS_WITH_AS(ask(4, 1, true), doctest::Contains("encoder"), RequestError);
}

}  // namespace sluice
