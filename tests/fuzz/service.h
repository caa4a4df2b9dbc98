// SPDX-License-Identifier: Apache-2.0
// A server's facts without an engine, for targets that read request bodies.
#pragma once

#include <cmath>

#include "api/http.h"
#include "api/service.h"
#include "fuzz/fuzz.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace sluice::fuzz {

inline const Service& service() {
  static const auto tokenizer = Tokenizer::bytes();
  static const auto chat = ChatTemplate::from_text(
      "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if tools %}{{ tools | tojson }}{% endif "
      "%}");
  static const Service service = [] {
    Service s;
    s.tokenizer = tokenizer.get();
    s.chat = chat.get();
    s.model.id = "test-model";
    s.model.max_context = 2048;
    return s;
  }();
  return service;
}

inline HttpRequest json_request(std::string_view body) {
  HttpRequest request;
  request.method = "POST";
  request.headers.add("content-type", "application/json");
  request.body = body;
  return request;
}

// What the engine may rely on in any request that a dialect lets through.
inline void demand_sound(const GenerateRequest& request) {
  const SamplingParams& s = request.sampling;
  demand(request.max_new_tokens > 0, "no room for a token");
  demand(request.n > 0 && request.best_of >= request.n, "n and best_of contradict each other");
  demand(request.min_new_tokens >= 0, "a negative minimum");
  demand(s.greedy || (s.temperature > 0 && std::isfinite(s.temperature)), "a temperature that divides by nothing");
  demand(s.top_k >= 0 && s.top_p > 0 && s.top_p <= 1 && s.typical_p > 0 && s.typical_p <= 1, "top_k, top_p, typical_p");
  demand(s.min_p >= 0 && s.min_p <= 1 && s.repetition_penalty > 0, "min_p, repetition_penalty");
  demand(std::isfinite(s.repetition_penalty) && std::isfinite(s.frequency_penalty) && std::isfinite(s.presence_penalty),
         "a penalty without bounds");
  demand(s.n_logprobs >= -1 && s.n_logprobs <= kMaxTopLogprobs, "more alternatives than fit");
  for (const LogitBias& bias : s.logit_bias) demand(std::isfinite(bias.bias), "a bias without bounds");
  const auto vocab = service().tokenizer->vocab_size();
  for (const int32_t id : request.prompt) demand(id >= 0 && id < vocab, "a prompt token outside the vocabulary");
  for (const std::string& stop : request.stop) demand(!stop.empty(), "an empty stop string");
}

}  // namespace sluice::fuzz
