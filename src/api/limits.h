// SPDX-License-Identifier: Apache-2.0
// What one request may ask for. Filled once by the app from the settings named beside each field; read by dialects.
#pragma once

#include <cstdint>

namespace sluice {

struct Limits {
  int64_t max_concurrent_requests = 128;  // MAX_CONCURRENT_REQUESTS; enforced by the engine, reported by /info
  int64_t max_best_of = 2;                // MAX_BEST_OF
  int64_t max_stop_sequences = 4;         // MAX_STOP_SEQUENCES
  int64_t max_top_n_tokens = 5;           // MAX_TOP_N_TOKENS
  int64_t max_input_tokens = 1024;        // MAX_INPUT_TOKENS, MAX_INPUT_LENGTH; at most max_total_tokens - 1
  int64_t max_total_tokens = 2048;        // MAX_TOTAL_TOKENS: prompt and answer of one sequence
  bool prompt_apart = false;              // the prompt goes to an encoder: max_total_tokens bounds the answer alone
  int64_t max_batch_total_tokens = 0;     // MAX_BATCH_TOTAL_TOKENS; 0: as many as the cache holds
  int64_t max_batch_size = 0;             // MAX_BATCH_SIZE; 0: no limit of its own
  int64_t max_waiting_tokens = 20;        // reported by /info
  double waiting_served_ratio = 0.3;      // reported by /info
  int64_t max_client_batch_size = 4;      // MAX_CLIENT_BATCH_SIZE: prompts in one /v1/completions request
  int64_t max_choices = 64;               // n of the OpenAI routes, over all prompts of the request
  int64_t max_logprobs = 20;              // top_logprobs of the OpenAI routes
  int64_t default_new_tokens = 100;       // max_new_tokens of TGI routes where the request names none
  double watermark_gamma = 0.5;           // WATERMARK_GAMMA: share of the vocabulary that is green
  double watermark_delta = 2.0;           // WATERMARK_DELTA: added to the scores of green tokens

  // Tokens that an answer to so many prompt tokens may have.
  int64_t room(int64_t prompt) const { return max_total_tokens - (prompt_apart ? 1 : prompt); }
};

}  // namespace sluice
