// SPDX-License-Identifier: Apache-2.0
// MariTalk Local: whole answers, times in seconds, no key and no stream of its own. GET / is told by tgi.cpp's status.
#include "api/dialect.h"
#include "api/fields.h"
#include "api/metrics.h"
#include "api/prompt.h"
#include "api/stream.h"
#include "base/clock.h"
#include "text/channels.h"

namespace sluice::maritalk {
namespace {

int status_of(const Failure& failure) {
  using Kind = RequestError::Kind;
  if (failure.status != 0) return failure.status;
  switch (failure.kind) {
    case Kind::kTooLarge:
      return 413;
    case Kind::kOverloaded:
      return 429;
    case Kind::kUnavailable:
      return 503;
    case Kind::kGeneration:
      return 500;
    default:
      return 400;
  }
}

// The client hands a JSON error to its caller as if it were an answer: it must not hold `output`.
void error(const Failure& failure, const HttpRequest&, Reply& reply) {
  std::string out = "{\"detail\":";
  append_json_string(out, failure.message);
  out += '}';
  reply.json(status_of(failure), std::move(out));
}

GenerateRequest read_request(const JsonView& body, const Service& service) {
  const Fields fields{body};
  GenerateRequest r;
  SamplingParams& s = r.sampling;
  set_temperature(s, fields.number("temperature").value_or(0.7), "temperature");
  if (!fields.boolean("do_sample", true)) s.greedy = true;
  const double top_p = fields.number("top_p").value_or(0.95);
  if (!(top_p > 0 && top_p <= 1)) wrong_type("top_p", body["top_p"], "a number above 0 and at most 1");
  s.top_p = static_cast<float>(top_p);
  const auto seed = fields.seed("seed");
  s.seed = seed.value_or(0);
  r.has_seed = seed.has_value();
  r.stop = fields.strings("stop_sequences");
  for (const std::string& text : r.stop)
    if (text.empty()) invalid_field("stop_sequences", "stop_sequences cannot contain an empty string");
  if (static_cast<int64_t>(r.stop.size()) > service.limits.max_stop_sequences)
    invalid_field("stop_sequences", "stop_sequences: this server takes at most " +
                                        std::to_string(service.limits.max_stop_sequences) + " (MAX_STOP_SEQUENCES)");
  return r;
}

void answer(const HttpRequest& http, Reply& reply, const Service& service, GenerateRequest r, const JsonView& body) {
  // The client always sends max_tokens, 512 unless told otherwise: where the context ends first, so does the answer.
  fit_prompt(r, Fields{body}.integer("max_tokens").value_or(512), service.limits);
  service.metrics->validated(monotonic_seconds() - http.arrived);
  const auto finished = run(service, reply, std::move(r));
  if (!finished) return;
  std::string out = "{\"output\":";
  append_json_string(out, finished->answers[0].text);
  out += ",\"queue_time\":";
  append_json_number(out, finished->usage.queue_seconds);
  out += ",\"generation_time\":";
  append_json_number(out, finished->usage.prefill_seconds + finished->usage.decode_seconds);
  out += '}';
  reply.json(200, std::move(out));
}

void generate(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const Service& service = *context.service;
  const JsonBody json = read_object(http.body);
  GenerateRequest r = read_request(json.root(), service);
  const auto prompt = Fields{json.root()}.string("prompt");
  if (!prompt) invalid_field("prompt", "prompt: field required");
  r.prompt = service.tokenizer->encode(*prompt, true);
  answer(http, reply, service, std::move(r), json.root());
}

void chat(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const Service& service = *context.service;
  const JsonBody json = read_object(http.body);
  GenerateRequest r = read_request(json.root(), service);
  const ChatTemplate& chat = chat_of(service, "use /generate with the whole prompt");
  ChatInput input;
  input.messages = read_messages(json.root()["messages"], chat);
  r.prompt = service.tokenizer->encode(chat.render(input), false);
  r.channels = r.skip_special && speaks_channels(*service.tokenizer);
  answer(http, reply, service, std::move(r), json.root());
}

bool claims(const Headers&, const BodyOutline& body) {
  return body.has("prompt") && !body.has("inputs") && (body.has("stop_sequences") || body.has("do_sample"));
}

const RegisterDialect registered{{
    .name = "maritalk",
    .routes = {{"POST", "/generate", generate, false, true, claims, 5}, {"POST", "/chat/generate", chat}},
    .error = error,
}};

}  // namespace
}  // namespace sluice::maritalk
