// SPDX-License-Identifier: Apache-2.0
// From one row of logits to one token. Pure functions: equal arguments give equal tokens on every rank and host,
// whatever else is in the batch. Order and formulas follow transformers' logits processors, then OpenAI's penalties:
//   logit_bias, eos before eos_from, repetition, frequency, presence | temperature, top_k, top_p, min_p, typical_p |
//   draw
// The draw is Gumbel-max over the survivors: argmax of score - log(Exp(1) noise), the noise a function of
// (seed, choice, position, token id) alone, see sample/random.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sample/history.h"
#include "sample/params.h"

namespace sluice {

struct Candidate {
  float score;
  int32_t id;
};

// Working memory of one sampling thread; grows to the vocabulary on first use and is then reused.
struct SamplerScratch {
  std::vector<Candidate> candidates;
  std::vector<Candidate> sorted;
  std::vector<float> raw;
};

// `logits` [vocab] f32, overwritten. NaN counts as -inf; a row of only -inf gives token 0.
// `history` may be null when params.has_penalty() is false. `position` is the index of the new token in the whole
// sequence (prompt included).
void sample_row(std::span<float> logits, const SamplingParams& params, const TokenHistory* history, int64_t position,
                SamplerScratch& scratch, SampledToken& out);

// Logprob of a known token under the untouched logits [vocab], for prompt logprobs.
float score_row(std::span<const float> logits, int32_t target);

// The same with the `n_top` best alternatives (n_top <= kMaxTopLogprobs) in `out`; out.token is `target`.
void score_row(std::span<const float> logits, int32_t target, int32_t n_top, SampledToken& out);

}  // namespace sluice
