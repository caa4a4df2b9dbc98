// SPDX-License-Identifier: Apache-2.0
#include "sample/watermark.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "sample/sampler.h"

using namespace sluice;

namespace {

// Standard deviations by which the green tokens of a text exceed what chance gives.
double z_score(const std::vector<int32_t>& ids, int64_t vocab, double gamma) {
  double green = 0;
  const auto n = static_cast<double>(ids.size() - 1);
  for (size_t i = 1; i < ids.size(); ++i)
    green += Watermark(ids[i - 1], vocab).rank(ids[i]) < std::floor(gamma * static_cast<double>(vocab)) ? 1 : 0;
  return (green - gamma * n) / std::sqrt(n * gamma * (1 - gamma));
}

std::vector<int32_t> text(SamplingParams params, int64_t vocab, int tokens) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0, 2);
  TokenHistory history(vocab);
  std::vector<int32_t> ids{5};
  history.add_prompt(ids);
  SamplerScratch scratch;
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (int i = 0; i < tokens; ++i) {
    for (float& l : logits) l = normal(random);
    SampledToken out;
    sample_row(logits, params, &history, i + 1, scratch, out);
    history.add_output(out.token);
    ids.push_back(out.token);
  }
  return ids;
}

}  // namespace

TEST_CASE("a watermark orders every vocabulary anew for each token before, leaving none out") {
  for (const int64_t vocab : {1, 2, 5, 100, 257, 1000, 4099}) {
    for (const int32_t before : {0, 1, 77, 128000}) {
      const Watermark mark(before, vocab);
      std::vector<bool> seen(static_cast<size_t>(vocab));
      for (int64_t id = 0; id < vocab; ++id) {
        const int64_t rank = mark.rank(id);
        REQUIRE((rank >= 0 && rank < vocab && !seen[static_cast<size_t>(rank)]));
        seen[static_cast<size_t>(rank)] = true;
      }
    }
  }
  // Two orders agree about a token's half about half of the time.
  int same = 0;
  const Watermark a(1, 4000), b(2, 4000);
  for (int64_t id = 0; id < 4000; ++id) same += (a.rank(id) < 2000) == (b.rank(id) < 2000) ? 1 : 0;
  CHECK(std::abs(same - 2000) < 200);
}

TEST_CASE("the permutation is the published one") {
  const Watermark mark(1234, 50257);
  CHECK(mark.rank(0) == 15615);
  CHECK(mark.rank(1) == 9799);
  CHECK(mark.rank(50256) == 48169);
}

TEST_CASE("a marked text shows itself, an unmarked one and a wrong key do not") {
  SamplingParams plain;
  plain.greedy = false;
  plain.seed = 3;
  SamplingParams marked = plain;
  marked.watermark_gamma = 0.5f;
  marked.watermark_delta = 2.0f;
  CHECK(marked.needs_history());
  constexpr int64_t kVocab = 1000;
  const std::vector<int32_t> with = text(marked, kVocab, 200), without = text(plain, kVocab, 200);
  CHECK(z_score(with, kVocab, 0.5) > 6);
  CHECK(std::abs(z_score(without, kVocab, 0.5)) < 4);
  CHECK(std::abs(z_score(with, kVocab + 500, 0.5)) < 4);
  CHECK(text(marked, kVocab, 200) == with);
  marked.greedy = true;
  CHECK(z_score(text(marked, kVocab, 200), kVocab, 0.5) > 6);
  marked.watermark_gamma = 0.25f;
  CHECK(z_score(text(marked, kVocab, 200), kVocab, 0.25) > 6);
}
