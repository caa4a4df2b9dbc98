// SPDX-License-Identifier: Apache-2.0
// From one row of logits to one token. Pure functions: equal arguments give equal tokens on every rank and host,
// whatever else is in the batch. Order and formulas follow transformers' logits processors, with OpenAI's penalties in
// between (s: score; "never": -inf):
//   watermark             green tokens, see watermark.h: s += delta
//   logit_bias            s += bias
//   repetition_penalty r  ids of prompt or output, once: s < 0 ? s * r : s / r
//   frequency, presence   ids of the output: s -= frequency * count + presence
//   no_repeat_ngram n     the last n - 1 tokens occurred before: what followed them there never comes
//   bad_words             all but its last id end the sequence: the last never comes; of several ids only where the
//                         sequence has as many already
//   eos_ids               never before eos_from
//   forced                at a position that is named: its ids get 0, all others never come
//   decay                 decay_ids: s += |s| * (decay_factor^(position - decay_from) - 1)
//   suppress              never; begin_suppress never at begin_position; what is not in a non-empty allowed never
//   mask                  of a constrained answer: tokens whose bit is not set never come
//   temperature T         s /= T; this and what follows only where greedy is false, each on what the one before left
//   top_k                 what is below the k-th best goes; ties with it stay
//   top_p                 the smallest set of best tokens whose mass reaches it; of equal scores the higher ids stay
//   min_p                 p < min_p * the best p goes
//   typical_p             ordered by |surprise - entropy|: the prefix that reaches the mass, and ties with its last
//   epsilon_cutoff        p < epsilon goes, but never the best
//   eta_cutoff            p < min(eta, sqrt(eta) e^-entropy) goes, but never the best
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
// `mask` [(vocab + 31) / 32]: bit i % 32 of word i / 32 allows token i; empty allows all. `history` may be null when
// params.needs_history() is false. `position` is the index of the new token in the whole sequence (prompt included).
void sample_row(std::span<float> logits, const SamplingParams& params, const TokenHistory* history, int64_t position,
                SamplerScratch& scratch, SampledToken& out, std::span<const uint32_t> mask = {});

// The continuations that a beam search chooses from: the kMaxTopLogprobs best from rank `first` on, lower ids first on
// ties, with log probabilities to which processors were applied. Where nothing may come, token 0 at -inf.
void best_of_row(std::span<float> logits, const SamplingParams& params, const TokenHistory* history, int64_t position,
                 int32_t first, SamplerScratch& scratch, SampledToken& out);

// Logprob of a known token under the untouched logits [vocab], for prompt logprobs.
float score_row(std::span<const float> logits, int32_t target);

// The same with its rank and the `n_top` best alternatives (n_top <= kMaxTopLogprobs) in `out`; out.token is `target`.
void score_row(std::span<const float> logits, int32_t target, int32_t n_top, SampledToken& out);

}  // namespace sluice
