// SPDX-License-Identifier: Apache-2.0
// What goes into the engine and what comes out. HTTP, offline generation and chat differ only in the Sink.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/spec.h"
#include "sample/params.h"
#include "schedule/beams.h"

namespace sluice {

struct GenerateRequest {
  std::vector<int32_t> prompt;  // token ids, special tokens included
  SamplingParams sampling;      // seed: used when has_seed, else the leader draws one and reports it
  bool has_seed = false;
  int32_t n = 1;        // choices returned
  int32_t best_of = 1;  // choices generated, >= n; the best by mean log probability are returned (not when streaming)
  BeamParams beams;     // width above 1: the n best answers of a beam search, told when it is over; best_of is n then
  int32_t max_new_tokens = 0;  // > 0
  int32_t min_new_tokens = 0;
  std::vector<std::string> stop;  // stop strings
  bool keep_stop_text = false;    // TGI keeps the stop string in the text, OpenAI drops it
  bool ignore_eos = false;
  std::vector<int32_t> stop_ids;       // besides the model's eos
  bool skip_special = true;            // special tokens do not appear in text
  bool channels = false;               // the answer comes in channels (text/channels.h), unless a grammar shapes it
  int32_t prompt_logprobs = -1;        // report every prompt token's and so many alternatives'; -1: nothing
  bool want_tokens = false;            // fill Delta::token details and logprobs
  std::vector<std::string> bad_words;  // texts that may not come, with or without a space before them
  int32_t forced_bos = -1;             // id of the first token of a sequence whose prompt is one token; -1: none
  int32_t forced_eos = -1;             // id of the token at max_new_tokens; -1: none
  GrammarSpec grammar;                 // filled by engine/grammar_fields.h
  int32_t decay_start = 0;             // generated tokens after which sampling.decay_factor takes effect
};

enum class FinishReason : uint8_t { kNone, kLength, kEos, kStop, kCancelled };

struct TokenInfo {
  int32_t id = -1;
  float logprob = 0.0f;
  int32_t rank = 0;  // of a prompt token among all, from 1; else 0
  bool special = false;
  std::string text;            // the token alone, decoded
  std::vector<TokenInfo> top;  // alternatives, best first, when asked for
};

// One generated token of one choice. `text` is what became certain (may be empty, may cover earlier tokens).
struct Delta {
  int32_t choice = 0;
  int32_t index = 0;                          // 1 for the first generated token
  std::string_view text;                      // valid during the call
  std::string_view reasoning;                 // of an answer in channels: what is not meant for the user; the same
  const TokenInfo* token = nullptr;           // set when want_tokens
  FinishReason finish = FinishReason::kNone;  // set on the last delta of the choice
  std::string_view stop_text;                 // the stop string that matched
  int32_t stop_id = -1;                       // the stop id that matched, when not an eos
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;     // of the prompt, found in the prefix cache
  int32_t generated_tokens = 0;  // all choices
  uint64_t seed = 0;             // given or drawn
  double queue_seconds = 0, prefill_seconds = 0, decode_seconds = 0;
};

// Receives one request's output. All calls come from the engine's output thread, in order; they must not block.
class Sink {
 public:
  virtual ~Sink() = default;
  // Once, before the first delta, when prompt_logprobs was asked for: one entry per prompt token, the first without
  // logprob (NaN).
  virtual void on_prompt(const std::vector<TokenInfo>&) {}
  virtual void on_delta(const Delta& delta) = 0;
  virtual void on_done(const Usage& usage) = 0;         // exactly one of these two ends the request
  virtual void on_error(std::string_view message) = 0;  // the engine lost the request (draining, fatal)
};

}  // namespace sluice
