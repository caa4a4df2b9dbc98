// SPDX-License-Identifier: Apache-2.0
// From logits to sampled tokens on the device, token for token as src/sample/sampler.h on the host.
#pragma once

#include "types.h"

namespace sluice::kernels {

constexpr int kMaxTop = 20;  // kMaxTopLogprobs of src/sample/params.h

struct TokenBias {
  int32_t id;
  float bias;
};

// ForcedToken of src/sample/params.h, byte for byte.
struct TokenAt {
  int64_t position;
  int32_t id, unused;
};

// A list of ids in device memory.
struct IdList {
  const int32_t* ids;
  int32_t n;
};

// What a sequence holds so far, prompt first; drawn tokens are added while there is room.
struct TokenSequence {
  int32_t* ids;  // device [room], or null where nobody asks
  int64_t n, room;
};

// The resident parameters of one slot; fields mean what those of SamplingParams mean.
struct SlotParams {
  int32_t greedy;  // bool
  float temperature;
  int32_t top_k;
  float top_p, min_p, typical_p;
  float repetition_penalty, frequency_penalty, presence_penalty;
  int32_t choice;
  uint64_t seed;
  int32_t n_logprobs;
  int32_t raw_logprobs;  // bool
  float epsilon_cutoff, eta_cutoff;
  int32_t no_repeat_ngram;
  float decay_factor;
  int64_t eos_from, decay_from, begin_position;
  IdList eos, decay, suppress, begin_suppress, allowed, bad_words;
  const TokenBias* logit_bias;  // device [n_bias]
  const TokenAt* forced;        // device [n_forced]
  int32_t n_bias, n_forced;
  float watermark_gamma, watermark_delta;
  const uint32_t* mask;  // device [(vocab + 31) / 32], or null: bit i % 32 of word i / 32 allows token i
};

// SampledToken of src/sample/params.h, byte for byte.
struct TokenResult {
  int32_t token;
  float logprob;
  int32_t rank, n_top;
  int32_t top_ids[kMaxTop];
  float top_logprobs[kMaxTop];
};

struct SampleParams {
  TokenResult* out;          // [n]
  const float* logits;       // [.., vocab], left alone
  const int32_t* entries;    // [n, 4]: row of logits (below 0: an entry to skip), slot, position, target: as
                             // Backend::sample has them
  const SlotParams* slots;   // [slots]
  TokenSequence* sequences;  // [slots], or null when no slot has one
  uint16_t*
      counts;  // [slots, vocab] or null when no slot has a penalty: bit 15: in the prompt; below: times in the output
  int32_t* last;                                   // [slots]: last token of each slot
  float* scratch;                                  // [n, vocab]
  int64_t n, vocab, logits_stride, counts_stride;  // counts_stride: even, at least vocab
};
cudaError_t sample(const SampleParams& p, cudaStream_t stream);

// Clears a slot's counts and counts `n_history` ids, of which the last `n_output` are output.
struct HistoryParams {
  uint16_t* counts;        // [vocab] of the slot, 4-byte aligned
  const int32_t* history;  // device [n_history]
  int64_t vocab, n_history, n_output;
};
cudaError_t set_history(const HistoryParams& p, cudaStream_t stream);

// tokens[t] = last[slots[t]] where tokens[t] < 0.
struct ResolveParams {
  int32_t* tokens;       // [rows]
  const int32_t* slots;  // [rows]
  const int32_t* last;   // [slots]
  int64_t rows;
};
cudaError_t resolve_tokens(const ResolveParams& p, cudaStream_t stream);

}  // namespace sluice::kernels
