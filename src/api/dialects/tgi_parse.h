// SPDX-License-Identifier: Apache-2.0
// Bodies of Text Generation Inference: reading, and validation in its order and words.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api/http.h"
#include "api/json.h"
#include "api/service.h"

namespace sluice::tgi {

// A body that is refused before validation, in plain text as TGI's framework does: 415, 400 or 422.
struct BodyRejection {
  int status = 400;
  std::string text;
};

struct Parameters {
  std::string inputs;
  bool stream = false;
  bool do_sample = true;  // true only without any `parameters`
  std::optional<int64_t> best_of, top_k, max_new_tokens, truncate, top_n_tokens;
  std::optional<double> temperature, repetition_penalty, frequency_penalty, top_p, typical_p;
  std::optional<bool> return_full_text;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool watermark = false, details = false, decoder_input_details = false;
  GrammarSpec grammar;
  bool adapter_id = false;  // one was sent
};

// Each throws BodyRejection.
Parameters read(const HttpRequest& request);
Parameters read_parameters(const JsonView& root);  // of the body itself: {"inputs", "parameters"?, "stream"?}

// What is left of the request after validation.
struct Prepared {
  GenerateRequest request;
  bool sampling = false;  // not greedy: the seed is reported
  bool details = false;
  int64_t top_n = 0;
  int64_t best_of = 1;
  std::string prefix;  // put before generated_text
};
// Throws RequestError(kValidation) with TGI's text. `streaming`: the route streams.
Prepared prepare(const Parameters& parameters, const Service& service, bool streaming, bool full_text_default);

}  // namespace sluice::tgi
