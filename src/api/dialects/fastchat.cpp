// SPDX-License-Identifier: Apache-2.0
// FastChat's API server where it has routes of its own; its /v1 routes are those of openai.cpp. Every refusal is 400
// with a number of FastChat's.
#include <fmt/format.h>

#include "api/dialect.h"
#include "api/dialects/openai_answer.h"
#include "api/fields.h"

namespace sluice::fastchat {
namespace {

int code_of(const Failure& failure) {
  using Kind = RequestError::Kind;
  if (failure.status == 500) return 50001;
  switch (failure.kind) {
    case Kind::kUnknownModel:
      return 40301;
    case Kind::kGeneration:
      return 50001;
    case Kind::kValidation:
      if (failure.message.find("context length") != std::string::npos) return 40303;
      return failure.message.find(" must be ") != std::string::npos ? 40302 : 40001;
    default:
      return 40001;
  }
}

void error(const Failure& failure, const HttpRequest&, Reply& reply) {
  using Kind = RequestError::Kind;
  if (failure.status == 401)
    return reply.json(401,
                      "{\"detail\":{\"error\":{\"message\":\"\",\"type\":\"invalid_request_error\",\"param\":null,"
                      "\"code\":\"invalid_api_key\"}}}");
  std::string out = "{\"object\":\"error\",\"message\":";
  append_json_string(out, failure.message);
  out += fmt::format(",\"code\":{}}}", code_of(failure));
  int status = failure.status;
  // The original queues without limit and has no answer for a full queue: these two keep the meaning clients retry on.
  if (status == 0) status = failure.kind == Kind::kOverloaded ? 429 : failure.kind == Kind::kUnavailable ? 503 : 400;
  reply.json(status, std::move(out));
}

// One message, or the whole prompt as text.
void chat(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const JsonBody body = openai::parse(http);
  if (body.root()["messages"].kind() != JsonView::Kind::kString)
    return openai::answer(http, reply, *context.service,
                          openai::read_chat(http, *context.service, openai::Manner::kFastChat));
  Value message = body.root().value();
  Dict copy = message.as_dict(), user;
  user.set("role", Value("user"));
  user.set("content", *copy.find("messages"));
  copy.set("messages", Value(List{Value(std::move(user))}));
  HttpRequest asked = http;
  asked.body = Value(std::move(copy)).dump_compact();
  openai::answer(asked, reply, *context.service, openai::read_chat(asked, *context.service, openai::Manner::kFastChat));
}

void token_check(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const Service& service = *context.service;
  const JsonBody body = openai::parse(http);
  JsonView prompts = body.root()["prompts"];
  if (prompts.kind() != JsonView::Kind::kArray) wrong_type("prompts", prompts, "a list of {model, prompt, max_tokens}");
  std::string out = "{\"prompts\":[";
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Fields fields{prompts.at(i)};
    openai::check_model(prompts.at(i), service.model);
    const auto prompt = fields.string("prompt");
    if (!prompt) invalid_field("prompt", "prompt: field required");
    const auto count = static_cast<int64_t>(service.tokenizer->encode(*prompt, true).size());
    const int64_t wanted = fields.integer("max_tokens").value_or(0);
    const int64_t room = service.limits.max_total_tokens - count;
    out += fmt::format("{}{{\"fits\":{},\"tokenCount\":{},\"contextLength\":{}}}", i > 0 ? "," : "",
                       room >= 0 && wanted <= room, count, service.limits.max_total_tokens);
  }
  out += "]}";
  reply.json(200, std::move(out));
}

void embeddings(const HttpRequest&, Reply&, const RouteContext&) {
  invalid_field("model", "embeddings are not offered: this server only generates text");
}

// A worker is found by a controller, and this server registers with none.
void worker(const HttpRequest&, Reply&, const RouteContext&) {
  invalid_field("route",
                "this server is no FastChat worker or controller; ask /v1/chat/completions, and name the server "
                "in the web UI's --register-api-endpoint-file");
}

const RegisterDialect registered{{
    .name = "fastchat",
    .routes = {{"POST", "/api/v1/chat/completions", chat},
               {"POST", "/api/v1/token_check", token_check},
               {"POST", "/v1/engines/{}/embeddings", embeddings},
               {"POST", "/worker_generate_stream", worker},
               {"POST", "/worker_generate", worker},
               {"POST", "/worker_get_status", worker},
               {"POST", "/register_worker", worker},
               {"POST", "/get_worker_address", worker},
               {"POST", "/list_models", worker}},
    .error = error,
}};

}  // namespace
}  // namespace sluice::fastchat
