// SPDX-License-Identifier: Apache-2.0
// Ollama's own routes: newline-delimited JSON, streams unless told otherwise, times in nanoseconds.
#include <fmt/format.h>

#include "api/dialect.h"
#include "api/dialects/ollama_parse.h"
#include "api/dialects/ollama_reply.h"
#include "api/metrics.h"
#include "api/stream.h"
#include "base/clock.h"

namespace sluice::ollama {
namespace {

int status_of(const Failure& failure) {
  using Kind = RequestError::Kind;
  if (failure.status != 0) return failure.status;
  switch (failure.kind) {
    case Kind::kUnknownModel:
      return 404;
    case Kind::kTooLarge:
      return 413;
    case Kind::kOverloaded:
    case Kind::kUnavailable:
      return 503;
    case Kind::kGeneration:
      return 500;
    default:
      return 400;
  }
}

void error(const Failure& failure, const HttpRequest&, Reply& reply) {
  const bool busy = failure.status == 0 && failure.kind == RequestError::Kind::kOverloaded;
  std::string out;
  append_error(out, busy ? "server busy, please try again.  maximum pending requests exceeded" : failure.message);
  reply.json(status_of(failure), std::move(out));
}

// Clients such as curl leave the content type at its default: it does not matter here.
JsonBody read(const HttpRequest& http) {
  if (http.body.empty()) throw RequestError(RequestError::Kind::kMalformed, "missing request body");
  return read_object(http.body);
}

// The conversation as ids: the prompt's, then the answer's as they come.
class Writer final : public StreamWriter {
 public:
  Writer(Call call, double arrived)
      : call_(std::move(call)),
        arrived_(arrived),
        context_(call_.request.prompt),
        held_(call_.tools.choice != ToolUse::Choice::kNone) {}

  void event(std::string& out, const Event& event) override {
    if (event.has_token) context_.push_back(event.token.id);
    if (call_.logprobs && event.has_token && event.finish != FinishReason::kEos) tokens_.push_back(event.token);
    if (event.finish != FinishReason::kNone) finish_ = event.finish;
    if (call_.thinks && !event.reasoning.empty()) {
      append_piece(out, call_, wall_seconds(), "", false, {}, event.reasoning);
      out += "}\n";
    }
    std::string_view text = event.text;
    std::vector<ToolCall> calls;
    if (held_) {
      text_ += event.text;
      const bool finished = event.finish != FinishReason::kNone;
      if (!finished && may_be_call(text_)) return;
      held_ = false;
      if (finished) calls = find_calls(call_.tools, text_);
      text = calls.empty() ? std::string_view(text_) : "";
    }
    if (text.empty() && calls.empty()) return;
    append_piece(out, call_, wall_seconds(), text, false, calls);
    append_tokens(out, call_, tokens_);
    tokens_.clear();
    out += "}\n";
  }
  void done(std::string& out, const Usage& usage) override {
    append_piece(out, call_, wall_seconds(), "", true);
    append_end(out, call_, finish_, usage, monotonic_seconds() - arrived_, context_);
    append_tokens(out, call_, tokens_);  // those that no text has come of
    out += "}\n";
  }
  void failed(std::string& out, const RequestError& error) override {
    append_error(out, error.what());
    out += '\n';
  }

 private:
  Call call_;
  double arrived_;
  std::vector<int32_t> context_;
  bool held_;                      // the text may be a call: it waits until that is known
  std::string text_;               // held back
  std::vector<TokenInfo> tokens_;  // since the last piece, with logprobs
  FinishReason finish_ = FinishReason::kNone;
};

void answer(const HttpRequest& http, Reply& reply, const Service& service, Call call) {
  service.metrics->validated(monotonic_seconds() - http.arrived);
  if (call.load) {
    std::string out;
    append_piece(out, call, wall_seconds(), "", true);
    out += call.unload ? ",\"done_reason\":\"unload\"}" : ",\"done_reason\":\"load\"}";
    return reply.json(200, std::move(out));
  }
  if (call.stream) {
    GenerateRequest request = call.request;
    stream(service, reply, std::move(request), std::make_shared<Writer>(std::move(call), http.arrived));
    reply.headers.add("content-type", "application/x-ndjson");
    return;
  }
  const auto finished = run(service, reply, call.request);
  if (!finished) return;
  const Answer& only = finished->answers[0];
  std::vector<int32_t> context = call.request.prompt;
  for (const TokenInfo& token : only.tokens) context.push_back(token.id);
  std::string out;
  const std::vector<ToolCall> calls = find_calls(call.tools, only.text);
  append_piece(out, call, wall_seconds(), calls.empty() ? only.text : "", true, calls, only.reasoning);
  append_end(out, call, only.finish, finished->usage, monotonic_seconds() - http.arrived, context);
  std::vector<TokenInfo> tokens = only.tokens;
  if (only.finish == FinishReason::kEos && !tokens.empty()) tokens.pop_back();
  append_tokens(out, call, tokens);
  out += '}';
  reply.json(200, std::move(out));
}

// The model is here already, or it cannot be had: this server serves the one it was started with.
void pull(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const JsonBody body = read(http);
  read_model(body.root(), context.service->model);
  if (!Fields{body.root()}.boolean("stream", true)) return reply.json(200, "{\"status\":\"success\"}");
  reply.content(200, "application/x-ndjson", "{\"status\":\"pulling manifest\"}\n{\"status\":\"success\"}\n");
}

auto refuse(std::string what) {
  return [what](const HttpRequest&, Reply& reply, const RouteContext& context) {
    std::string out;
    append_error(out, fmt::format(fmt::runtime(what), context.service->model.id));
    reply.json(501, std::move(out));
  };
}

constexpr const char* kFixed = "this server serves '{}' as its job was started; models are neither made nor moved here";
constexpr const char* kEmbed = "\"{}\" does not support embeddings: this server only generates text";

Route fixed(const char* method, const char* path) { return {method, path, refuse(kFixed)}; }

const RegisterDialect registered{{
    .name = "ollama",
    .routes =
        {
            {"POST", "/api/generate",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
               answer(http, reply, *c.service, read_generate(read(http).root(), *c.service));
             }},
            {"POST", "/api/chat",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
               answer(http, reply, *c.service, read_chat(read(http).root(), *c.service));
             }},
            {"GET", "/",
             [](const HttpRequest&, Reply& reply, const RouteContext&) {
               reply.content(200, "text/plain; charset=utf-8", "Ollama is running");
             },
             false, false,
             [](const Headers& headers, const BodyOutline&) { return headers.get("user-agent").starts_with("ollama"); },
             20},
            {"GET", "/api/version",
             [](const HttpRequest&, Reply& reply, const RouteContext& c) {
               reply.json(200, "{\"version\":\"" + c.service->version + "\"}");
             }},
            {"GET", "/api/tags",
             [](const HttpRequest&, Reply& reply, const RouteContext& c) {
               reply.json(200, tags(c.service->model, c.service->started));
             }},
            {"GET", "/api/ps",
             [](const HttpRequest&, Reply& reply, const RouteContext& c) {
               reply.json(200, running(c.service->model, c.service->started));
             }},
            {"POST", "/api/show",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
               const JsonBody body = read(http);
               read_model(body.root(), c.service->model);
               reply.json(200, show(*c.service, Fields{body.root()}.boolean("verbose", false)));
             }},
            {"POST", "/api/pull", pull},
            {"POST", "/api/embed", refuse(kEmbed)},
            {"POST", "/api/embeddings", refuse(kEmbed)},
            fixed("POST", "/api/create"),
            fixed("POST", "/api/copy"),
            fixed("POST", "/api/push"),
            fixed("DELETE", "/api/delete"),
            fixed("POST", "/api/blobs/{}"),
        },
    .error = error,
}};

}  // namespace
}  // namespace sluice::ollama
