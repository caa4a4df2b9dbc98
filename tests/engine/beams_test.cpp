// SPDX-License-Identifier: Apache-2.0
// Beam search through the whole engine, beside transformers' answers (tests/golden/make_beams.py).
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/model_run.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

Json searches(const std::string& name) {
  std::ifstream in(test::source_dir() / "tests/golden" / name / "beams.json");
  return Json::parse(in);
}

GenerateRequest request_of(const Json& search) {
  GenerateRequest r;
  r.prompt = search["prompt"].get<std::vector<int32_t>>();
  r.max_new_tokens = search["max_new_tokens"];
  r.min_new_tokens = search.value("min_new_tokens", 0);
  r.ignore_eos = r.want_tokens = true;
  r.stop_ids = search["eos_token_id"].get<std::vector<int32_t>>();
  r.n = search["num_return_sequences"];
  r.sampling.n_logprobs = 0;
  r.sampling.repetition_penalty = search.value("repetition_penalty", 1.0f);
  r.sampling.no_repeat_ngram = search.value("no_repeat_ngram_size", 0);
  r.beams.width = search["num_beams"];
  r.beams.length_penalty = search.value("length_penalty", 1.0f);
  const Json stop = search.value("early_stopping", Json(false));
  r.beams.early_stopping = stop == "never" ? EarlyStopping::kNever
                           : stop == true  ? EarlyStopping::kYes
                                           : EarlyStopping::kNo;
  return r;
}

EngineStats check_searches(const std::string& name, const Setup& setup, size_t first = 0, size_t last = 100) {
  const Golden golden = read_golden(name);
  const Json all = searches(name);
  last = std::min(last, all.size());
  std::vector<GenerateRequest> requests;
  for (size_t i = first; i < last; ++i) {
    requests.push_back(request_of(all[i]));
    GenerateRequest other;  // beside the searches
    other.prompt.assign(requests.back().prompt.begin(), requests.back().prompt.begin() + 5 + static_cast<long>(i));
    other.max_new_tokens = 20;
    other.ignore_eos = true;
    requests.push_back(other);
  }
  const Outcome outcome = run(golden, requests, setup);
  for (size_t i = first; i < last; ++i) {
    const Json& search = all[i];
    CAPTURE(search["num_beams"].dump());
    CAPTURE(i);
    RecordingSink& sink = *outcome.sinks[2 * (i - first)];
    const auto answers = search["answers"].get<std::vector<std::vector<int32_t>>>();
    REQUIRE(sink.choices.size() == answers.size());
    size_t total = 0;
    for (size_t c = 0; c < answers.size(); ++c) {
      CHECK(tokens_of(sink, static_cast<int32_t>(c)) == answers[c]);
      total += answers[c].size();
      double sum = 0;
      for (const auto& piece : sink.choices[static_cast<int32_t>(c)].pieces)
        sum += static_cast<double>(piece.token.logprob);
      const double score = sum / std::pow(static_cast<double>(answers[c].size()), search.value("length_penalty", 1.0));
      CHECK(std::abs(score - search["scores"][c].get<double>()) < 2e-4 * (1 + std::abs(score)));
    }
    CHECK(sink.usage.generated_tokens == static_cast<int32_t>(total));
  }
  return outcome.stats;
}

Setup setup_of(int tp, int pp) {
  Setup setup;
  setup.dtype = "float32";
  setup.max_seqs = 16;
  setup.tp = tp;
  setup.pp = pp;
  return setup;
}

}  // namespace

TEST_CASE("a beam search finds what transformers finds, whatever runs beside it") {
  for (const char* name : {"llama/llama2_gqa", "llama/mistral_window", "t5/flan", "t5/tied"}) {
    CAPTURE(name);
    Setup setup = setup_of(1, 1);
    setup.token_budget = 160;
    setup.max_context = 160;
    CHECK(check_searches(name, setup).preemptions == 0);
    if (std::string_view(name) == "llama/llama2_gqa") {
      setup.prefix_cache = false;
      setup.token_budget = 11;  // not all beams of a search fit one step
      check_searches(name, setup);
    }
  }
}

TEST_CASE("a beam search finds the same over tensor and pipeline ranks") {
  for (const auto& [tp, pp] : {std::pair{2, 1}, std::pair{1, 2}, std::pair{2, 2}}) {
    CAPTURE(tp);
    CAPTURE(pp);
    Setup setup = setup_of(tp, pp);
    check_searches("llama/llama2_gqa", setup);
    setup.token_budget = 160;
    setup.max_context = 160;
    check_searches("t5/flan", setup, 0, 4);
  }
}

TEST_CASE("a beam search survives preemption in a small cache") {
  for (const bool cache : {true, false}) {
    Setup setup = setup_of(1, 1);
    setup.prefix_cache = cache;
    const Golden golden = read_golden("llama/llama2_gqa");
    setup.cache_tokens = 5 * static_cast<int64_t>((golden.prompt.size() + 24 + 15) / 16 * 16);
    // Whether they meet is up to the machine: on a busy one a search may end before the next has come.
    int64_t preemptions = 0;
    for (int tries = 0; tries < 50 && preemptions == 0; ++tries)
      preemptions = static_cast<int64_t>(check_searches("llama/llama2_gqa", setup, 0, 6).preemptions);
    CHECK(preemptions > 0);
  }
}

TEST_CASE("a search that cannot run is refused by name") {
  OneRank rank(read_golden("llama/llama2_gqa"), {});
  const auto refusal = [&](const std::function<void(GenerateRequest&)>& change) {
    GenerateRequest r;
    r.prompt = {1, 2, 3};
    r.max_new_tokens = 4;
    r.beams.width = 4;
    change(r);
    try {
      rank.engine.submit(r, std::make_shared<RecordingSink>());
    } catch (const RequestError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(refusal([](auto& r) { r.sampling.greedy = false; }).find("temperature") != std::string::npos);
  CHECK(refusal([](auto& r) { r.n = 5; }).find("number of beams, 4, not 5") != std::string::npos);
  CHECK(refusal([](auto& r) { r.sampling.n_logprobs = 2; }).find("alternatives") != std::string::npos);
  CHECK(refusal([](auto& r) { r.beams.width = 9; }).find("9 beams are asked for, but 8") != std::string::npos);
  CHECK(refusal([](auto& r) { r.grammar.kind = GrammarSpec::Kind::kRegex; }).find("constrained") != std::string::npos);
}

}  // namespace sluice
