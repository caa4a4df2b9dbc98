// SPDX-License-Identifier: Apache-2.0
#include "sample/sampler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "sample/random.h"

using namespace sluice;

namespace {
SamplingParams sampling() {
  SamplingParams p;
  p.greedy = false;
  return p;
}

SampledToken run(std::vector<float> logits, const SamplingParams& p, int64_t position = 0,
                 const TokenHistory* history = nullptr) {
  SamplerScratch scratch;
  SampledToken out;
  sample_row(logits, p, history, position, scratch, out);
  return out;
}

// Who is left after the warpers: everything with a finite logprob, in order of id.
std::set<int32_t> survivors(const std::vector<float>& logits, SamplingParams p) {
  p.n_logprobs = kMaxTopLogprobs;
  p.raw_logprobs = false;
  const SampledToken out = run(logits, p);
  std::set<int32_t> left(out.top_ids, out.top_ids + out.n_top);
  double mass = 0;
  for (int i = 0; i < out.n_top; ++i) mass += std::exp(out.top_logprobs[i]);
  CHECK(mass == doctest::Approx(1.0).epsilon(1e-5));  // renormalised over the survivors
  for (int64_t position = 0; position < 200; ++position) CHECK(left.count(run(logits, p, position).token) == 1);
  return left;
}

std::vector<float> log_of(std::vector<float> p) {
  for (float& x : p) x = std::log(x);
  return p;
}

using Ids = std::set<int32_t>;
}  // namespace

TEST_CASE("greedy takes the highest score and the lowest id on ties") {
  CHECK(run({1, 3, 3, 2}, SamplingParams{}).token == 1);
  CHECK(run({-5, -7, -5}, SamplingParams{}).token == 0);
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  CHECK(run({nan, -2, -inf, -1}, SamplingParams{}).token == 3);
  CHECK(run({1, inf, 2}, SamplingParams{}).token == 1);
  CHECK(run({-inf, -inf}, SamplingParams{}).token == 0);
}

TEST_CASE("top_k keeps ties at its border") {
  SamplingParams p = sampling();
  p.top_k = 2;
  CHECK(survivors({4, 3, 2, 1}, p) == Ids{0, 1});
  CHECK(survivors({4, 3, 3, 1, 3}, p) == Ids{0, 1, 2, 4});
  p.top_k = 1;
  CHECK(survivors({1, 2, 2}, p) == Ids{1, 2});
  p.top_k = 9;
  CHECK(survivors({1, 2, 2}, p) == Ids{0, 1, 2});
}

TEST_CASE("top_k over a large vocabulary equals a full sort") {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(50000);
  for (float& x : logits) x = std::round(normal(generator) * 8) / 8;  // many ties
  for (const int k : {1, 7, 500, 20000}) {
    std::vector<float> sorted = logits;
    std::sort(sorted.rbegin(), sorted.rend());
    const float bar = sorted[static_cast<size_t>(k - 1)];
    SamplingParams p = sampling();
    p.top_k = k;
    p.temperature = 50;  // flat: nearly every survivor has a chance
    SamplerScratch scratch;
    SampledToken out;
    std::vector<float> work = logits;
    sample_row(work, p, nullptr, 3, scratch, out);
    const auto expected = std::count_if(logits.begin(), logits.end(), [&](float x) { return x >= bar; });
    CHECK(static_cast<std::ptrdiff_t>(scratch.candidates.size()) == expected);
    for (const Candidate& c : scratch.candidates) REQUIRE(logits[static_cast<size_t>(c.id)] >= bar);
  }
}

TEST_CASE("top_p keeps the smallest set that reaches the mass") {
  SamplingParams p = sampling();
  p.top_p = 0.6f;
  CHECK(survivors(log_of({0.5f, 0.3f, 0.15f, 0.05f}), p) == Ids{0, 1});
  p.top_p = 0.81f;
  CHECK(survivors(log_of({0.15f, 0.5f, 0.05f, 0.3f}), p) == Ids{0, 1, 3});
  p.top_p = 1e-6f;
  CHECK(survivors(log_of({0.15f, 0.5f, 0.05f, 0.3f}), p) == Ids{1});
}

TEST_CASE("top_p drops the token after the one that exactly hits the mass") {
  SamplingParams p = sampling();
  p.top_p = 0.5f;
  // Four quarters: ascending sums .25 .5 .75 1, those not above 1 - .5 go. Equal scores leave from the low ids.
  CHECK(survivors({2, 2, 2, 2}, p) == Ids{2, 3});
  p.top_p = 0.5000001f;
  CHECK(survivors({2, 2, 2, 2}, p) == Ids{1, 2, 3});
  p.top_p = 0.75f;
  CHECK(survivors({2, 2, 2, 2}, p) == Ids{1, 2, 3});
}

TEST_CASE("top_p looks past its first cut when the distribution is flat") {
  SamplingParams p = sampling();
  p.top_p = 0.9f;
  std::vector<float> logits(4000, 0.0f);
  logits[17] = 12.0f;  // e^12 = 162755: the rest of the mass is 4000 / 166755 = 2.4 %
  SamplerScratch scratch;
  SampledToken out;
  std::vector<float> work = logits;
  sample_row(work, p, nullptr, 0, scratch, out);
  CHECK(scratch.candidates.size() == 1);
  p.top_p = 0.99f;
  work = logits;
  sample_row(work, p, nullptr, 0, scratch, out);
  CHECK(scratch.candidates.size() > 2000);
  CHECK(scratch.candidates.size() < 2700);
}

TEST_CASE("min_p compares with the best token") {
  SamplingParams p = sampling();
  p.min_p = 0.5f;
  CHECK(survivors(log_of({0.4f, 0.25f, 0.19f, 0.16f}), p) == Ids{0, 1});
  CHECK(survivors({100, 0, 0, 0}, p) == Ids{0});  // the best has probability 1
  p.min_p = 1.0f;
  CHECK(survivors({3, 1, 3, 2}, p) == Ids{0, 2});
}

TEST_CASE("typical_p keeps what is closest to the entropy, the threshold element and its ties") {
  // Entropy of (.5 .25 .125 .125) is 1.75 bits; distances .75 .25 1.25 1.25 bits: the order is 1, 0, {2, 3}.
  const std::vector<float> logits = log_of({0.5f, 0.25f, 0.125f, 0.125f});
  SamplingParams p = sampling();
  p.typical_p = 0.2f;
  CHECK(survivors(logits, p) == Ids{1});
  p.typical_p = 0.3f;
  CHECK(survivors(logits, p) == Ids{0, 1});
  p.typical_p = 0.8f;
  CHECK(survivors(logits, p) == Ids{0, 1, 2, 3});
}

TEST_CASE("warpers act in order, each on what the one before left") {
  SamplingParams p = sampling();
  p.top_k = 2;
  p.top_p = 0.6f;  // of the two left the first holds .4 / .7 = .57, so both stay
  CHECK(survivors(log_of({0.4f, 0.3f, 0.2f, 0.1f}), p) == Ids{0, 1});
  p.top_p = 0.55f;
  CHECK(survivors(log_of({0.4f, 0.3f, 0.2f, 0.1f}), p) == Ids{0});
  p = sampling();
  p.temperature = 0.5f;
  p.min_p = 0.5f;  // squared: .16 .09 .04 .01
  CHECK(survivors(log_of({0.4f, 0.3f, 0.2f, 0.1f}), p) == Ids{0, 1});
}

TEST_CASE("penalties follow their formulas, also for negative scores") {
  TokenHistory history(5);
  history.add_prompt(std::vector<int32_t>{0, 1, -4, 99});
  history.add_output(1);
  history.add_output(1);
  history.add_output(2);
  SamplingParams p;
  p.repetition_penalty = 2.0f;
  p.frequency_penalty = 0.25f;
  p.presence_penalty = 0.5f;
  std::vector<float> logits = {4, -1, 3, 2, -2};
  SamplerScratch scratch;
  SampledToken out;
  sample_row(logits, p, &history, 0, scratch, out);
  CHECK(logits == std::vector<float>{2, -3, 0.75f, 2, -2});  // token 1, in both, once: -1 * 2 - 2 * .25 - .5
  CHECK(out.token == 0);
  history.reset(5);
  logits = {4, -1, 3, 2, -2};
  sample_row(logits, p, &history, 0, scratch, out);
  CHECK(logits == std::vector<float>{4, -1, 3, 2, -2});
}

TEST_CASE("output counts saturate and leave the prompt bit alone") {
  TokenHistory history(2);
  for (int i = 0; i < 40000; ++i) history.add_output(1);
  CHECK(history.output_count(1) == 32767);
  CHECK_FALSE(history.in_prompt(1));
}

TEST_CASE("bias and the minimum length act before selection") {
  SamplingParams p;
  p.logit_bias = {{2, 10.0f}, {77, 1.0f}, {-1, 1.0f}};
  CHECK(run({3, 2, 1}, p).token == 2);
  p.eos_ids = {2};
  p.eos_from = 5;
  CHECK(run({3, 2, 1}, p, 4).token == 0);
  CHECK(run({3, 2, 1}, p, 5).token == 2);
}

TEST_CASE("raw logprobs are of the untouched logits and drawn ones of the survivors") {
  const std::vector<float> logits = log_of({0.5f, 0.25f, 0.125f, 0.125f});
  SamplingParams p = sampling();
  p.top_k = 1;
  p.temperature = 0.7f;
  p.logit_bias = {{1, 20.0f}};
  p.n_logprobs = 3;
  SampledToken out = run(logits, p);
  CHECK(out.token == 1);
  CHECK(out.logprob == doctest::Approx(std::log(0.25)).epsilon(1e-5));
  REQUIRE(out.n_top == 3);
  CHECK(out.top_ids[0] == 0);
  CHECK(out.top_ids[2] == 2);  // the tie of 2 and 3
  CHECK(out.top_logprobs[0] == doctest::Approx(std::log(0.5)).epsilon(1e-5));
  p.raw_logprobs = false;
  out = run(logits, p);
  CHECK(out.token == 1);
  CHECK(out.logprob == doctest::Approx(0.0));
  CHECK(out.n_top == 1);
  p.n_logprobs = -1;
  CHECK(run(logits, p).logprob == 0.0f);
}

TEST_CASE("scoring a token equals log softmax in double precision") {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal(0, 4);
  for (const size_t vocab : {size_t{1}, size_t{7}, size_t{1000}, size_t{128256}}) {
    std::vector<float> logits(vocab);
    for (float& x : logits) x = normal(generator);
    double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    for (const size_t target : {size_t{0}, vocab / 2, vocab - 1}) {
      const double expected = static_cast<double>(logits[target]) - std::log(sum);
      CHECK(std::abs(static_cast<double>(score_row(logits, static_cast<int32_t>(target))) - expected) < 2e-6);
    }
    SampledToken out;
    score_row(logits, 0, 5, out);
    CHECK(out.n_top == static_cast<int32_t>(std::min<size_t>(5, vocab)));
    CHECK(out.top_ids[0] == std::max_element(logits.begin(), logits.end()) - logits.begin());
    CHECK(out.rank == 1 + std::count_if(logits.begin(), logits.end(), [&](float x) { return x > logits[0]; }));
    score_row(logits, out.top_ids[0], 0, out);
    CHECK(out.rank == 1);
  }
}

TEST_CASE("equally likely tokens rank in the order of their ids, NaN behind all") {
  const std::vector<float> logits{NAN, 1, 3, 1, -INFINITY, 1};
  const std::vector<int32_t> ranks{5, 2, 1, 3, 6, 4};
  for (size_t i = 0; i < logits.size(); ++i) {
    SampledToken out;
    score_row(logits, static_cast<int32_t>(i), 0, out);
    CHECK(out.rank == ranks[i]);
  }
}

TEST_CASE("the draw does not depend on calls before it and changes with seed, choice and position") {
  std::vector<float> logits(64, 0.0f);
  SamplingParams p = sampling();
  p.seed = 11;
  std::map<int64_t, int32_t> forward;
  for (int64_t position = 0; position < 50; ++position) forward[position] = run(logits, p, position).token;
  for (int64_t position = 49; position >= 0; --position) CHECK(run(logits, p, position).token == forward[position]);
  int same_seed = 0, same_choice = 0, same_position = 0;
  for (int64_t position = 0; position < 50; ++position) {
    SamplingParams other = p;
    other.seed = 12;
    same_seed += run(logits, other, position).token == forward[position];
    other = p;
    other.choice = 1;
    same_choice += run(logits, other, position).token == forward[position];
    same_position += run(logits, p, position + 1).token == forward[position];
  }
  CHECK(same_seed < 8);
  CHECK(same_choice < 8);
  CHECK(same_position < 8);
}

TEST_CASE("a dropped rival never changes the draw among the rest") {
  std::vector<float> logits = {1, 0.5f, 0, -0.5f, -1, -1.5f};
  SamplingParams all = sampling(), some = sampling();
  some.top_k = 3;
  for (int64_t position = 0; position < 300; ++position) {
    const int32_t token = run(logits, all, position).token;
    if (token < 3) CHECK(run(logits, some, position).token == token);
  }
}

TEST_CASE("the shortcuts of a whole row pick the argmax of score plus noise") {
  std::mt19937 generator(8);
  for (int64_t position = 0; position < 400; ++position) {
    std::normal_distribution<float> normal(0, 0.1f + 0.01f * static_cast<float>(position));
    std::vector<float> logits(1 + static_cast<size_t>(generator() % 3000));
    for (float& x : logits) x = normal(generator);
    SamplingParams p = sampling();
    p.seed = 5;
    TokenNoise noise(5, 0, position);
    const float max = *std::max_element(logits.begin(), logits.end());
    int32_t expected = 0;
    double best = -1e300;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double value = static_cast<double>(logits[i] - max) + noise.gumbel(static_cast<int32_t>(i));
      if (value > best) expected = static_cast<int32_t>(i), best = value;
    }
    CHECK(run(logits, p, position).token == expected);
  }
}

TEST_CASE("drawn tokens follow the softmax: chi-square over 40000 draws") {
  const std::vector<float> probability = {0.4f, 0.25f, 0.15f, 0.1f, 0.06f, 0.03f, 0.01f};
  const std::vector<float> logits = log_of(probability);
  SamplingParams p = sampling();
  p.seed = 20240607;
  std::vector<int> count(probability.size());
  constexpr int kDraws = 40000;
  SamplerScratch scratch;
  SampledToken out;
  for (int64_t position = 0; position < kDraws; ++position) {
    std::vector<float> work = logits;
    sample_row(work, p, nullptr, position, scratch, out);
    ++count[static_cast<size_t>(out.token)];
  }
  double chi = 0;
  for (size_t i = 0; i < count.size(); ++i) {
    const double expected = static_cast<double>(probability[i]) * kDraws;
    chi += (count[i] - expected) * (count[i] - expected) / expected;
  }
  CHECK(chi < 22.46);  // 6 degrees of freedom, 0.1 %
  CHECK(chi > 0.38);   // suspiciously even otherwise
}

TEST_CASE("parameters survive the trip over the wire") {
  SamplingParams p;
  p.greedy = false;
  p.temperature = 0.25f;
  p.top_k = 7;
  p.top_p = 0.5f;
  p.min_p = 0.1f;
  p.typical_p = 0.9f;
  p.repetition_penalty = 1.1f;
  p.frequency_penalty = -0.5f;
  p.presence_penalty = 0.75f;
  p.seed = 0xfedcba9876543210ull;
  p.choice = 3;
  p.n_logprobs = 5;
  p.raw_logprobs = false;
  p.eos_from = 1ll << 40;
  p.eos_ids = {2, 3};
  p.logit_bias = {{5, -1.5f}};
  p.no_repeat_ngram = 4;
  p.bad_words = {1, 8};
  p.forced = {{1ll << 33, 6, 0}};
  p.allowed = {1, 2, 3};
  std::vector<std::byte> bytes, again;
  p.write(bytes);
  SamplingParams{}.write(bytes);
  std::span<const std::byte> in(bytes);
  const SamplingParams q = SamplingParams::read(in);
  q.write(again);
  CHECK(std::equal(again.begin(), again.end(), bytes.begin()));
  CHECK(q.seed == p.seed);
  CHECK(q.eos_from == p.eos_from);
  CHECK(q.logit_bias.at(0).bias == -1.5f);
  CHECK(q.needs_history());
  CHECK(q.forced.at(0).position == 1ll << 33);
  CHECK(q.allowed == p.allowed);
  CHECK(SamplingParams::read(in).greedy);
  CHECK(in.empty());
}
