// SPDX-License-Identifier: Apache-2.0
// The OpenAI routes as vLLM serves them: docs/compatibility.md lists the differences.
#include <algorithm>

#include "api/dialect.h"
#include "api/dialects/openai_parse.h"
#include "api/dialects/openai_reply.h"
#include "api/json.h"
#include "api/metrics.h"
#include "api/stream.h"
#include "base/clock.h"

namespace sluice::openai {
namespace {

struct Named {
  int status;
  std::string_view type;
};

Named name_of(const Failure& failure) {
  using Kind = RequestError::Kind;
  switch (failure.status) {
    case 0:
      break;
    case 401:
      return {401, "AuthenticationError"};
    case 404:
    case 405:
      return {failure.status, "NotFoundError"};
    case 500:
      return {500, "InternalServerError"};
    default:
      return {failure.status, "BadRequestError"};
  }
  switch (failure.kind) {
    case Kind::kMalformed:
      return {failure.param == "content-type" ? 415 : 400, "BadRequestError"};
    case Kind::kUnknownModel:
      return {404, "NotFoundError"};
    case Kind::kTooLarge:
      return {413, "BadRequestError"};
    case Kind::kOverloaded:
      return {429, "RateLimitError"};
    case Kind::kUnavailable:
      return {503, "ServiceUnavailableError"};
    case Kind::kGeneration:
      return {500, "InternalServerError"};
    default:
      return {400, "BadRequestError"};
  }
}

void error(const Failure& failure, const HttpRequest&, Reply& reply) {
  Named named = name_of(failure);
  std::string out;
  append_error(out, named.status, failure.message, named.type, failure.param);
  reply.json(named.status, std::move(out));
}

Frame frame_of(const HttpRequest& http, const Service& service) {
  return {http.id, static_cast<int64_t>(wall_seconds()), service.model.id, "sluice-" + service.version};
}

Totals totals_of(const Generation& generation, bool only_prompt) {
  Totals totals;
  for (size_t i = 0; i < generation.sources(); ++i) {
    const Usage& usage = generation.usage(i);
    totals.prompt += usage.prompt_tokens;
    totals.cached += usage.cached_tokens;
    if (!only_prompt) totals.generated += usage.generated_tokens;
  }
  return totals;
}

void answer_whole(const HttpRequest& http, Reply& reply, const Service& service, Call call) {
  Generation generation(service, reply, Generation::Mode::kWhole);
  for (const GenerateRequest& request : call.requests) generation.start(request);
  std::vector<Event> events;
  if (!generation.collect(events)) return;
  std::vector<std::vector<Answer>> answers;
  std::vector<std::vector<TokenInfo>> prompts;
  for (size_t i = 0; i < call.requests.size(); ++i) {
    answers.push_back(assemble(events, static_cast<int32_t>(i), call.n));
    prompts.push_back(generation.prompt(i));
    for (const Answer& answer : answers.back()) service.metrics->finish_reason(answer.finish);
  }
  reply.json(200, whole(call, frame_of(http, service), answers, prompts, totals_of(generation, call.only_prompt)));
}

// State of one stream; lives in the reply's closure.
struct Stream {
  Stream(const HttpRequest& http, const Service& s, Reply& reply, Call c)
      : service(s),
        call(std::move(c)),
        chunks(call, frame_of(http, s)),
        generation(s, reply, Generation::Mode::kStream),
        offsets(call.requests.size() * static_cast<size_t>(call.n)) {}

  bool produce(std::string& out) try {
    if (!opened) {
      opened = true;
      open(out);
      if (!out.empty()) return true;
    }
    switch (generation.next(events, kKeepAliveSeconds)) {
      case Generation::Next::kIdle:
        out += kKeepAlive;
        return true;
      case Generation::Next::kGone:
        return false;
      case Generation::Next::kEvents:
        for (const Event& event : events) append(out, event);
        return true;
      case Generation::Next::kDone:
        break;
    }
    if (call.include_usage) chunks.usage(out, totals_of(generation, false));
    out += "data: [DONE]\n\n";
    return false;
  } catch (const RequestError& failed) {
    service.metrics->request_failed("generation");
    out += "data: ";
    append_error(out, 500, failed.what(), "InternalServerError", "");
    out += "\n\ndata: [DONE]\n\n";
    return false;
  }

  void open(std::string& out) {
    if (!call.chat && !call.echo) return;
    for (size_t i = 0; i < offsets.size(); ++i)
      chunks.opening(out, static_cast<int32_t>(i), call.echo ? call.prompts[i / static_cast<size_t>(call.n)] : "");
  }

  void append(std::string& out, const Event& event) {
    const bool finished = event.finish != FinishReason::kNone;
    if (finished) service.metrics->finish_reason(event.finish);
    // Part of a character, or of a possible stop string: nothing to say yet.
    if (event.text.empty() && !finished && !call.logprobs) return;
    const int32_t index = event.source * call.n + event.choice;
    int64_t& offset = offsets[static_cast<size_t>(index)];
    chunks.piece(out, index, event, offset);
    if (call.logprobs) offset += utf8_length(event.token.text);
  }

  const Service& service;
  Call call;
  Chunks chunks;
  Generation generation;
  std::vector<Event> events;
  std::vector<int64_t> offsets;  // per choice, characters of its tokens' text so far
  bool opened = false;
};

void answer(const HttpRequest& http, Reply& reply, const Service& service, Call call) {
  service.metrics->validated(monotonic_seconds() - http.arrived);
  if (!call.stream) return answer_whole(http, reply, service, std::move(call));
  auto state = std::make_shared<Stream>(http, service, reply, std::move(call));
  for (const GenerateRequest& request : state->call.requests) state->generation.start(request);
  reply.headers.add("content-type", "text/event-stream");
  reply.headers.add("cache-control", "no-cache");
  reply.headers.add("x-accel-buffering", "no");
  reply.stream = [state](std::string& out) { return state->produce(out); };
}

const RegisterDialect registered{{
    .name = "openai",
    .routes =
        {
            {"GET", "/v1/models",
             [](const HttpRequest&, Reply& reply, const RouteContext& c) { reply.json(200, models(*c.service)); }},
            {"POST", "/v1/chat/completions",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
               answer(http, reply, *c.service, read_chat(http, *c.service));
             }},
            {"POST", "/v1/completions",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
               answer(http, reply, *c.service, read_completion(http, *c.service));
             }},
            {"GET", "/version",
             [](const HttpRequest&, Reply& reply, const RouteContext& c) {
               reply.json(200, "{\"version\":\"" + c.service->version + "\"}");
             }},
        },
    .error = error,
}};

}  // namespace
}  // namespace sluice::openai
