// SPDX-License-Identifier: Apache-2.0
// How one sequence chooses its tokens, and one choice. Plain data: the leader fills the parameters from a request,
// Steps carry them to every rank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

inline constexpr int kMaxTopLogprobs = 20;

struct LogitBias {
  int32_t id = 0;    // token id; outside the vocabulary it is ignored
  float bias = 0.0;  // added to the logit before penalties
};

struct ForcedToken {
  int64_t position = 0;  // in the whole sequence
  int32_t id = 0;
  int32_t unused = 0;  // keeps the layout free of padding
};

struct SamplingParams {
  bool greedy = true;               // highest score, lowest id on ties; set for temperature 0 or do_sample false
  float temperature = 1.0f;         // scores are divided by it, > 0; unused when greedy
  int32_t top_k = 0;                // keep the k best and whatever ties with the last of them; 0 is off
  float top_p = 1.0f;               // keep the smallest set of best tokens whose mass reaches it, in (0, 1]; 1 is off
  float min_p = 0.0f;               // drop tokens less likely than this share of the best one, in [0, 1]; 0 is off
  float typical_p = 1.0f;           // keep the mass closest to the entropy, in (0, 1]; 1 is off
  float repetition_penalty = 1.0f;  // divides positive and multiplies negative scores of seen tokens, > 0; 1 is off
  float frequency_penalty = 0.0f;   // subtracted once per occurrence in the output
  float presence_penalty = 0.0f;    // subtracted once if the output holds the token
  uint64_t seed = 0;                // of the request; the leader draws one where the request has none
  int32_t choice = 0;               // index among the n answers to one prompt
  int32_t n_logprobs = -1;          // best alternatives reported, at most kMaxTopLogprobs; -1: no logprobs at all
  bool raw_logprobs = true;  // true: of the untouched logits (OpenAI); false: of what the token was drawn from (TGI)
  int64_t eos_from = 0;      // at positions before it eos_ids may not come: prompt tokens + min_new_tokens
  std::vector<int32_t> eos_ids;       // empty when there is no minimum
  std::vector<LogitBias> logit_bias;  // usually empty

  float epsilon_cutoff = 0.0f;  // drop tokens less likely than it, in [0, 1); 0 is off
  float eta_cutoff = 0.0f;      // drop tokens less likely than min(it, sqrt(it) e^-entropy), in [0, 1); 0 is off
  int32_t no_repeat_ngram = 0;  // no run of this many tokens comes twice, prompt included; 0 is off
  float decay_factor = 1.0f;    // at positions after decay_from decay_ids gain |score| (factor^distance - 1); 1 is off
  int64_t decay_from = 0;
  int64_t begin_position = 0;           // of the first generated token, where begin_suppress may not come
  std::vector<int32_t> decay_ids;       // the model's eos ids; empty unless decay_factor is used
  std::vector<int32_t> bad_words;       // runs of tokens that may not come: for each its length, then its ids
  std::vector<int32_t> suppress;        // ids that never come
  std::vector<int32_t> begin_suppress;  // ids that do not come first
  std::vector<int32_t> allowed;         // ascending; where not empty, all other ids never come
  std::vector<char> grammar;            // what the answer must look like, for engine/constraints.h; usually empty
  int64_t end_position = 0;             // of the token after the last one that fits
  float watermark_gamma = 0.0f;         // share of the vocabulary that is green, in (0, 1), see watermark.h; 0 is off
  float watermark_delta = 0.0f;         // added to the scores of green tokens
  std::vector<ForcedToken> forced;      // at a position named here only the ids named for it may come

  bool has_penalty() const {
    return repetition_penalty != 1.0f || frequency_penalty != 0.0f || presence_penalty != 0.0f;
  }
  // The tokens so far count: a backend keeps them, set_slot() gets them.
  bool needs_history() const {
    return has_penalty() || no_repeat_ngram > 0 || !bad_words.empty() || !grammar.empty() || watermark_gamma > 0;
  }

  // Fixed little-endian layout, for ranks that run the same build.
  void write(std::vector<std::byte>& out) const;
  // Takes one set from the front of `in`. Throws Error when bytes are short or malformed.
  static SamplingParams read(std::span<const std::byte>& in);
};

// Trivially copyable: the backend hands it over as bytes.
struct SampledToken {
  int32_t token = 0;
  float logprob = 0;  // of `token`; 0 when params.n_logprobs is -1
  int32_t rank = 0;   // of a scored token: 1 + how many are likelier, or as likely with a lower id; else 0
  int32_t n_top = 0;  // entries below, best first; lower id first on ties
  int32_t top_ids[kMaxTopLogprobs] = {};
  float top_logprobs[kMaxTopLogprobs] = {};
};

}  // namespace sluice
