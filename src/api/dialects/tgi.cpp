// SPDX-License-Identifier: Apache-2.0
// Text Generation Inference (native routes), as of 1.4.4 and 3.3.7: docs/compatibility.md lists the differences.
#include <fmt/format.h>

#include <algorithm>

#include "api/dialect.h"
#include "api/dialects/openai_parse.h"
#include "api/dialects/tgi_more.h"
#include "api/dialects/tgi_parse.h"
#include "api/dialects/tgi_reply.h"
#include "api/metrics.h"
#include "api/stream.h"
#include "base/clock.h"

namespace sluice::tgi {
namespace {

struct Named {
  int status;
  std::string_view type;
  std::string prefix;
};

Named name_of(RequestError::Kind kind) {
  using Kind = RequestError::Kind;
  switch (kind) {
    case Kind::kMalformed:
      return {422, "validation", ""};
    case Kind::kValidation:
      return {422, "validation", "Input validation error: "};
    case Kind::kTemplate:
      return {422, "template_error", "Template error: "};
    case Kind::kUnknownModel:
      return {404, "validation", ""};
    case Kind::kTooLarge:
      return {413, "validation", ""};
    case Kind::kOverloaded:
      return {429, "overloaded", ""};
    case Kind::kUnavailable:
      return {503, "unavailable", ""};
    case Kind::kGeneration:
      return {424, "generation", "Request failed during generation: "};
  }
  return {500, "generation", ""};
}

std::string text_of(RequestError::Kind kind, const std::string& message) {
  if (kind == RequestError::Kind::kOverloaded) return "Model is overloaded";
  return name_of(kind).prefix + message;
}

void error(const Failure& failure, const HttpRequest&, Reply& reply) {
  Named named = name_of(failure.kind);
  if (failure.status == 401) named = {401, "unauthorized", ""};
  if (failure.status != 0) named = {failure.status, failure.status == 404 ? "not_found" : named.type, ""};
  std::string out;
  append_error(out, failure.status != 0 ? failure.message : text_of(failure.kind, failure.message), named.type);
  reply.json(named.status, std::move(out));
}

void add_compute_headers(Reply& reply, const Service& service, std::string_view inputs) {
  reply.headers.add("x-compute-type", service.model.device == "cuda" ? "gpu+optimized" : "cpu");
  reply.headers.add("x-compute-characters", std::to_string(utf8_length(inputs)));
}

void whole(const HttpRequest& http, Reply& reply, const Service& service, const Parameters& parameters, bool in_array) {
  Prepared prepared = prepare(parameters, service, false, in_array);
  const double validated = monotonic_seconds();
  service.metrics->validated(validated - http.arrived);
  Generation generation(service, reply, Generation::Mode::kWhole);
  generation.start(prepared.request);
  std::vector<Event> events;
  if (!generation.collect(events)) return;
  std::vector<Answer> answers = assemble(events, 0, static_cast<int32_t>(prepared.best_of));
  for (const Answer& answer : answers) service.metrics->finish_reason(answer.finish);
  const Usage& usage = generation.usage(0);

  std::string out = in_array ? "[" : "";
  append_whole(out, prepared, answers, usage, generation.prompt(0));
  if (in_array) out += ']';
  reply.json(200, std::move(out));
  const auto ms = [](double seconds) { return std::to_string(static_cast<int64_t>(seconds * 1000)); };
  const double total = monotonic_seconds() - http.arrived;
  const double inference = usage.prefill_seconds + usage.decode_seconds;
  add_compute_headers(reply, service, parameters.inputs);
  reply.headers.add("x-compute-time", fmt::format("{}", total));
  reply.headers.add("x-prompt-tokens", std::to_string(usage.prompt_tokens));
  reply.headers.add("x-generated-tokens", std::to_string(usage.generated_tokens));
  reply.headers.add("x-total-time", ms(total));
  reply.headers.add("x-validation-time", ms(validated - http.arrived));
  reply.headers.add("x-queue-time", ms(usage.queue_seconds));
  reply.headers.add("x-inference-time", ms(inference));
  reply.headers.add("x-time-per-token", ms(inference / std::max(1, usage.generated_tokens)));
}

// State of one stream; lives in the reply's closure.
struct Stream {
  Stream(const Service& s, Reply& reply, Prepared p)
      : service(s), prepared(std::move(p)), generation(s, reply, Generation::Mode::kStream) {}

  bool produce(std::string& out) try {
    const auto next = generation.drain(events, [&](Event& event) {
      text += event.text;
      if (event.finish == FinishReason::kNone)
        append_piece(out, prepared, event, nullptr, nullptr);
      else
        last = std::move(event);  // waits for the usage, which tells the seed
    });
    if (next != Generation::Next::kDone) return next == Generation::Next::kIdle;
    service.metrics->finish_reason(last.finish);
    append_piece(out, prepared, last, &text, &generation.usage(0));
    return false;
  } catch (const RequestError& error) {
    service.metrics->request_failed("generation");
    out += "data: ";
    append_error(out, text_of(error.kind(), error.what()), name_of(error.kind()).type);
    out += "\n\n";
    return false;
  }

  const Service& service;
  Prepared prepared;
  Generation generation;
  std::vector<Event> events;
  Event last;
  std::string text;
};

void stream(const HttpRequest& http, Reply& reply, const Service& service, const Parameters& parameters,
            bool full_text_default) {
  reply.headers.add("content-type", "text/event-stream");
  reply.headers.add("cache-control", "no-cache");
  reply.headers.add("x-accel-buffering", "no");
  add_compute_headers(reply, service, parameters.inputs);
  try {
    Prepared prepared = prepare(parameters, service, true, full_text_default);
    service.metrics->validated(monotonic_seconds() - http.arrived);
    GenerateRequest request = prepared.request;
    auto state = std::make_shared<Stream>(service, reply, std::move(prepared));
    state->generation.start(std::move(request));
    reply.stream = [state](std::string& out) { return state->produce(out); };
    reply.keep_alive = kKeepAlive;
  } catch (const RequestError& error) {
    // This route answers 200 and says what is wrong inside the stream.
    service.metrics->request_failed(error.kind() == RequestError::Kind::kOverloaded ? "overloaded" : "validation");
    std::string event = "data: ";
    append_error(event, text_of(error.kind(), error.what()), name_of(error.kind()).type);
    event += "\n\n";
    reply.body = std::move(event);
  }
}

// Runs `answer` with the body read, or refuses the body in plain text.
template <class F>
auto with_body(F answer) {
  return [answer](const HttpRequest& request, Reply& reply, const RouteContext& context) {
    try {
      answer(request, reply, *context.service, read(request));
    } catch (const BodyRejection& rejection) {
      context.service->metrics->request_failed("validation");
      reply.content(rejection.status, "text/plain; charset=utf-8", rejection.text);
    }
  };
}

bool has_inputs(const Headers&, const BodyOutline& body) { return body.has("inputs"); }

void health(const HttpRequest&, Reply& reply, const RouteContext& context) {
  if (context.state == ServerState::kReady) return reply.content(200, "text/plain", "");
  std::string out;
  append_error(out, "unhealthy", "healthcheck");
  reply.json(503, std::move(out));
}

// TGI's clients look at the code alone, MariTalk's at `status`.
void root(const HttpRequest&, Reply& reply, const RouteContext& context) {
  switch (context.state) {
    case ServerState::kReady: {
      EngineStats stats = context.service->stats();
      bool busy = stats.running + stats.waiting > 0;
      return reply.json(200, busy ? "{\"status\":\"busy\"}" : "{\"status\":\"idle\"}");
    }
    case ServerState::kLoading:
      return reply.json(503, "{\"status\":\"loading\",\"error\":\"unhealthy\",\"error_type\":\"healthcheck\"}");
    case ServerState::kDraining:
      return reply.json(503, "{\"status\":\"draining\",\"error\":\"unhealthy\",\"error_type\":\"healthcheck\"}");
  }
}

// Browsers and Ollama's clients are answered in their own way.
bool plain_root(const Headers& headers, const BodyOutline&) {
  return headers.get("accept").find("text/html") == std::string_view::npos &&
         !headers.get("user-agent").starts_with("ollama");
}

// True for `/` when the model is a plain text generator or a local path, as TGI decides it.
bool compat_full_text(const Service& service) {
  return service.model.pipeline_tag.empty() || service.model.pipeline_tag == "text-generation";
}

void compat(const HttpRequest& http, Reply& reply, const Service& s, const Parameters& p) {
  if (p.stream) return stream(http, reply, s, p, compat_full_text(s));
  Parameters filled = p;
  if (!filled.return_full_text) filled.return_full_text = compat_full_text(s);
  whole(http, reply, s, filled, true);
}

// Whatever the body looks like: generation, chat or completion.
void invocations(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const BodyOutline body = outline(http.body);
  if (!body.has("inputs") && body.has("messages")) return chat(http, reply, context);
  if (!body.has("inputs") && body.has("prompt")) return completion(http, reply, context);
  with_body(compat)(http, reply, context);
}

const RegisterDialect registered{{
    .name = "tgi",
    .routes =
        {
            {"POST", "/generate",
             with_body([](const HttpRequest& http, Reply& reply, const Service& s, const Parameters& p) {
               whole(http, reply, s, p, false);
             }),
             false, true, has_inputs, 10},
            {"POST", "/generate_stream",
             with_body([](const HttpRequest& http, Reply& reply, const Service& s, const Parameters& p) {
               stream(http, reply, s, p, false);
             })},
            {"POST", "/", with_body(compat)},
            {"POST", "/invocations", invocations},
            {"POST", "/vertex",
             [](const HttpRequest& http, Reply& reply, const RouteContext& context) {
               try {
                 vertex(http, reply, context);
               } catch (const BodyRejection& rejection) {
                 reply.content(rejection.status, "text/plain; charset=utf-8", rejection.text);
               }
             }},
            {"POST", "/chat_tokenize", chat_tokenize},
            {"POST", "/v1/chat/completions", chat, false, true, openai::expects_tgi, 1},
            {"POST", "/v1/completions", completion, false, true, openai::expects_tgi, 1},
            {"POST", "/tokenize",
             with_body([](const HttpRequest&, Reply& reply, const Service& s, const Parameters& p) {
               if (p.inputs.empty()) throw RequestError(RequestError::Kind::kValidation, "`inputs` cannot be empty");
               reply.json(200, tokens(s, p.inputs, true));
             }),
             false, true, has_inputs, 10},
            {"GET", "/", root, false, false, plain_root, 30},
            {"HEAD", "/", root, true, false},
            {"GET", "/health", health, true, false},
            {"GET", "/ping", health, true, false},
            {"POST", "/ping", health, true, false},
            {"GET", "/info",
             [](const HttpRequest&, Reply& reply, const RouteContext& c) { reply.json(200, info(*c.service)); }},
            {"GET", "/metrics",
             [](const HttpRequest&, Reply& reply, const RouteContext& c) {
               reply.content(200, "text/plain; version=0.0.4; charset=utf-8", c.service->metrics->text(*c.service));
             }},
        },
    .error = error,
}};

}  // namespace
}  // namespace sluice::tgi
