// SPDX-License-Identifier: Apache-2.0
// tests/golden/sample/cases.json, made by tests/golden/make_sample.py: which tokens transformers leaves, and how
// likely.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "places.h"
#include "sample/sampler.h"

using namespace sluice;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

namespace {

// A number, or a list of them.
Ids ids_of(const Json& value) { return value.is_array() ? value.get<Ids>() : Ids{value.get<int32_t>()}; }

SamplingParams params_of(const Json& c, const Ids& eos) {
  SamplingParams p;
  const Json& o = c["options"];
  const int64_t prompt = static_cast<int64_t>(c["prompt"].size());
  p.greedy = !o.value("do_sample", false);
  p.temperature = o.value("temperature", 1.0f);
  p.top_k = o.value("top_k", 0);
  p.top_p = o.value("top_p", 1.0f);
  p.min_p = o.value("min_p", 0.0f);
  p.typical_p = o.value("typical_p", 1.0f);
  p.epsilon_cutoff = o.value("epsilon_cutoff", 0.0f);
  p.eta_cutoff = o.value("eta_cutoff", 0.0f);
  p.repetition_penalty = o.value("repetition_penalty", 1.0f);
  p.no_repeat_ngram = o.value("no_repeat_ngram_size", 0);
  p.suppress = o.value("suppress_tokens", Ids{});
  p.begin_suppress = o.value("begin_suppress_tokens", Ids{});
  p.begin_position = prompt;
  p.eos_ids = eos;
  p.eos_from = prompt + o.value("min_new_tokens", 0);
  for (const Json& word : o.value("bad_words_ids", Json::array())) {
    p.bad_words.push_back(static_cast<int32_t>(word.size()));
    for (const Json& id : word) p.bad_words.push_back(id);
  }
  if (const auto decay = o.find("exponential_decay_length_penalty"); decay != o.end()) {
    p.decay_from = prompt + decay->at(0).get<int64_t>();
    p.decay_factor = decay->at(1);
    p.decay_ids = eos;
  }
  if (o.contains("forced_bos_token_id")) p.forced.push_back({1, o["forced_bos_token_id"], 0});
  if (o.contains("forced_eos_token_id")) {
    for (const int32_t id : ids_of(o["forced_eos_token_id"]))
      p.forced.push_back({o["max_length"].get<int64_t>() - 1, id, 0});
  }
  p.n_logprobs = kMaxTopLogprobs;
  p.raw_logprobs = false;
  return p;
}

}  // namespace

TEST_CASE("What is left of a row, and how likely, is what transformers leaves, with ties and in every order") {
  const Json file = Json::parse(read_file(test::source_dir() / "tests/golden/sample/cases.json"));
  const Ids eos = file["eos"];
  SamplerScratch scratch;
  for (const Json& c : file["cases"]) {
    CAPTURE(c.dump());
    const SamplingParams p = params_of(c, eos);
    auto row = c["logits"].get<std::vector<float>>();
    TokenHistory history(static_cast<int64_t>(row.size()));
    history.add_prompt(c["prompt"].get<Ids>());
    for (const int32_t id : c["output"].get<Ids>()) history.add_output(id);
    SampledToken out;
    sample_row(row, p, &history, static_cast<int64_t>(history.ids().size()), scratch, out);
    std::map<std::string, float> found;
    for (int32_t i = 0; i < out.n_top; ++i) found[std::to_string(out.top_ids[i])] = out.top_logprobs[i];
    const auto expected = c["logprobs"].get<std::map<std::string, float>>();
    CHECK(found.size() == expected.size());
    for (const auto& [id, logprob] : expected) {
      CHECK_MESSAGE(found.count(id) == 1, "token ", id, " is gone");
      if (found.count(id) == 1) CHECK(std::abs(found[id] - logprob) <= 1e-5f * std::max(1.0f, std::abs(logprob)));
    }
    CHECK(found.count(std::to_string(out.token)) == 1);
  }
}
