// SPDX-License-Identifier: Apache-2.0
// Expected survivors are those of the formulas in sample/sampler.h, by hand.
#include "sample/processors.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <vector>

#include "sample/sampler.h"

using namespace sluice;

namespace {

using Ids = std::set<int32_t>;

TokenHistory history_of(std::vector<int32_t> prompt, std::vector<int32_t> output = {}, int64_t vocab = 6) {
  TokenHistory history(vocab);
  history.add_prompt(prompt);
  for (const int32_t id : output) history.add_output(id);
  return history;
}

Ids banned(const SamplingParams& p, const TokenHistory& history, int64_t position = 0) {
  std::vector<float> row(static_cast<size_t>(history.vocab()), 1.0f);
  apply_processors(row, p, &history, position);
  Ids out;
  for (size_t i = 0; i < row.size(); ++i)
    if (row[i] == kNeverScore) out.insert(static_cast<int32_t>(i));
  return out;
}

SampledToken drawn(std::vector<float> row, SamplingParams p) {
  p.greedy = false;
  p.n_logprobs = kMaxTopLogprobs;
  p.raw_logprobs = false;
  SamplerScratch scratch;
  SampledToken out;
  sample_row(row, p, nullptr, 0, scratch, out);
  return out;
}

Ids survivors(const std::vector<float>& row, const SamplingParams& p) {
  const SampledToken out = drawn(row, p);
  return {out.top_ids, out.top_ids + out.n_top};
}

std::vector<float> log_of(std::vector<float> p) {
  for (float& x : p) x = std::log(x);
  return p;
}

}  // namespace

TEST_CASE("no run of n tokens comes twice, also across prompt and output") {
  SamplingParams p;
  p.no_repeat_ngram = 3;
  CHECK(banned(p, history_of({0, 1, 2, 0}, {1})) == Ids{2});  // 0 1 | 2
  CHECK(banned(p, history_of({0, 1, 2, 0, 1, 3, 0}, {1})) == Ids{2, 3});
  CHECK(banned(p, history_of({0, 1, 2, 4}, {1})).empty());
  CHECK(banned(p, history_of({0}, {1})).empty());
  CHECK(banned(p, history_of({3, 3, 3})) == Ids{3});
  p.no_repeat_ngram = 1;
  CHECK(banned(p, history_of({0, 5}, {2})) == Ids{0, 2, 5});
  p.no_repeat_ngram = 2;
  CHECK(banned(p, history_of({4})).empty());
  CHECK(banned(p, history_of({4, 4})) == Ids{4});
  p.no_repeat_ngram = 100;
  CHECK(banned(p, history_of({4, 4})).empty());
}

TEST_CASE("a bad word is cut off at its last token") {
  SamplingParams p;
  p.bad_words = {1, 5, 2, 0, 1, 3, 2, 0, 3};  // [5], [0 1], [2 0 3]
  CHECK(banned(p, history_of({4})) == Ids{5});
  CHECK(banned(p, history_of({4}, {0})) == Ids{1, 5});
  CHECK(banned(p, history_of({4, 2}, {0})) == Ids{1, 3, 5});  // begun in the prompt
  CHECK(banned(p, history_of({3}, {0, 1})) == Ids{5});
}

TEST_CASE("a bad word of several tokens needs as many before it, as in transformers") {
  SamplingParams p;
  p.bad_words = {1, 5, 2, 0, 1, 3, 2, 0, 3};  // [5], [0 1], [2 0 3]
  CHECK(banned(p, history_of({})) == Ids{5});
  CHECK(banned(p, history_of({0})) == Ids{5});        // all there is begins the word
  CHECK(banned(p, history_of({2, 0})) == Ids{1, 5});  // of two words one is as short as what came
  CHECK(banned(p, history_of({2}, {0})) == Ids{1, 5});
  CHECK(banned(p, history_of({4, 2}, {0})) == Ids{1, 3, 5});
}

TEST_CASE("suppressed tokens never come, begin-suppressed ones not first, others than the allowed never") {
  SamplingParams p;
  const TokenHistory none = history_of({});
  p.suppress = {1, 77};
  p.begin_suppress = {2};
  p.begin_position = 7;
  CHECK(banned(p, none, 7) == Ids{1, 2});
  CHECK(banned(p, none, 8) == Ids{1});
  p = {};
  p.allowed = {0, 3, 99};
  CHECK(banned(p, none) == Ids{1, 2, 4, 5});
}

TEST_CASE("a forced token takes its place whatever was banned before") {
  SamplingParams p;
  p.forced = {{4, 2, 0}, {4, 3, 0}, {9, 1, 0}};
  p.eos_ids = {2};
  p.eos_from = 100;
  std::vector<float> row(6, -3.0f);
  apply_processors(row, p, nullptr, 4);
  CHECK(row == std::vector<float>{kNeverScore, kNeverScore, 0, 0, kNeverScore, kNeverScore});
  CHECK(banned(p, history_of({}), 9) == Ids{0, 2, 3, 4, 5});
  CHECK(banned(p, history_of({}), 5) == Ids{2});
}

TEST_CASE("the end gains exponentially once its start is passed") {
  SamplingParams p;
  p.decay_ids = {1, 2};
  p.decay_factor = 1.5f;
  p.decay_from = 10;
  std::vector<float> row = {1, 2, -2, 3};
  apply_processors(row, p, nullptr, 10);
  CHECK(row == std::vector<float>{1, 2, -2, 3});
  apply_processors(row, p, nullptr, 13);  // 1.5^3 - 1 = 2.375
  CHECK(row == std::vector<float>{1, 6.75f, 2.75f, 3});
  row = {1, kNeverScore, 0, 3};
  apply_processors(row, p, nullptr, 13);
  CHECK(row[1] == kNeverScore);
}

TEST_CASE("epsilon drops what is unlikely and keeps the best with its ties") {
  SamplingParams p;
  p.epsilon_cutoff = 0.2f;
  CHECK(survivors(log_of({0.4f, 0.3f, 0.19f, 0.11f}), p) == Ids{0, 1});
  p.epsilon_cutoff = 0.9f;
  CHECK(survivors(log_of({0.4f, 0.3f, 0.2f, 0.1f}), p) == Ids{0});
  CHECK(survivors({2, 1, 2, 0}, p) == Ids{0, 2});
  p.epsilon_cutoff = 0.25f;
  CHECK(survivors({1, 1, 1, 1}, p) == Ids{0, 1, 2, 3});
}

TEST_CASE("eta lowers its bar with the entropy") {
  SamplingParams p;
  // Entropy of (.5 .25 .125 .125) is 1.213 nats: min(.2, sqrt(.2) e^-1.213) = .133.
  const std::vector<float> row = log_of({0.5f, 0.25f, 0.125f, 0.125f});
  p.eta_cutoff = 0.2f;
  CHECK(survivors(row, p) == Ids{0, 1});
  p.eta_cutoff = 0.16f;  // sqrt(.16) e^-1.213 = .119
  CHECK(survivors(row, p) == Ids{0, 1, 2, 3});
  p.eta_cutoff = 0.99f;  // .296
  CHECK(survivors(row, p) == Ids{0});
}

TEST_CASE("the cutoffs act on what typical_p left, whose best need not be the best of all") {
  SamplingParams p;
  p.typical_p = 0.2f;  // keeps only the token of .25
  p.epsilon_cutoff = 0.5f;
  CHECK(survivors(log_of({0.5f, 0.25f, 0.125f, 0.125f}), p) == Ids{1});
}
