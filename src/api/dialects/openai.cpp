// SPDX-License-Identifier: Apache-2.0
// The OpenAI routes as vLLM serves them: docs/compatibility.md lists the differences.
#include <algorithm>

#include "api/dialect.h"
#include "api/dialects/openai_answer.h"
#include "api/dialects/openai_reply.h"
#include "api/fields.h"
#include "engine/grammar_fields.h"

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
    case Kind::kValidation:
      return {failure.param == kGrammarParam ? 422 : 400, "BadRequestError"};
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

bool claims_generation(const Headers& headers, const BodyOutline& body) { return !expects_tgi(headers, body); }

void tokenize(const HttpRequest& http, Reply& reply, const Service& service) {
  const JsonBody json = parse(http);
  const JsonView body = json.root();
  const Fields fields{body};
  check_model(body, service.model);
  std::vector<int32_t> ids;
  if (body["messages"].missing()) {
    const auto prompt = fields.string("prompt");
    if (!prompt) invalid_field("prompt", "prompt: field required");
    ids = service.tokenizer->encode(*prompt, fields.boolean("add_special_tokens", true));
  } else {
    const ToolUse tools = read_tools(body["tools"], {});
    ids = service.tokenizer->encode(render_chat(body, service, tools), fields.boolean("add_special_tokens", false));
  }
  std::string out = "{\"count\":", strings;
  append_integer(out, static_cast<int64_t>(ids.size()));
  out += ",\"max_model_len\":";
  append_integer(out, service.limits.max_total_tokens);
  out += ",\"tokens\":[";
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) {
      out += ',';
      strings += ',';
    }
    append_integer(out, ids[i]);
    append_json_string(strings, service.tokenizer->token_text(ids[i]));
  }
  out += "],\"token_strs\":";
  out += fields.boolean("return_token_strs", false) ? "[" + strings + "]}" : "null}";
  reply.json(200, std::move(out));
}

void detokenize(const HttpRequest& http, Reply& reply, const Service& service) {
  const JsonBody json = parse(http);
  check_model(json.root(), service.model);
  if (json.root()["tokens"].unset()) invalid_field("tokens", "tokens: field required");
  const auto ids = read_ids("tokens", json.root()["tokens"], service.tokenizer->vocab_size());
  std::string out = "{\"prompt\":";
  append_json_string(out, service.tokenizer->decode(ids, false));
  out += '}';
  reply.json(200, std::move(out));
}

void embeddings(const HttpRequest&, Reply&, const RouteContext&) {
  invalid_field("model", "The model does not support Embeddings API: this server only generates text");
}

const RegisterDialect registered{{
    .name = "openai",
    .routes =
        {
            {"GET", "/v1/models",
             [](const HttpRequest&, Reply& reply, const RouteContext& c) { reply.json(200, models(*c.service)); }},
            {"POST", "/v1/chat/completions",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
               answer(http, reply, *c.service, read_chat(http, *c.service, Manner::kVllm));
             },
             false, true, claims_generation, 10},
            {"POST", "/v1/completions",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
               answer(http, reply, *c.service, read_completion(http, *c.service, Manner::kVllm));
             },
             false, true, claims_generation, 10},
            {"GET", "/v1/models/{}",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
               const ModelFacts& facts = c.service->model;
               const std::string& asked = http.arguments[0];
               if (asked != facts.id &&
                   std::find(facts.aliases.begin(), facts.aliases.end(), asked) == facts.aliases.end())
                 throw RequestError(RequestError::Kind::kUnknownModel, "The model `" + asked + "` does not exist.",
                                    "model");
               reply.json(200, model_card(*c.service));
             }},
            {"POST", "/v1/embeddings", embeddings},
            {"POST", "/tokenize",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) { tokenize(http, reply, *c.service); },
             false, true, [](const Headers&, const BodyOutline& body) { return !body.has("inputs"); }, 5},
            {"POST", "/detokenize",
             [](const HttpRequest& http, Reply& reply, const RouteContext& c) { detokenize(http, reply, *c.service); }},
            {"GET", "/version",
             [](const HttpRequest&, Reply& reply, const RouteContext& c) {
               reply.json(200, "{\"version\":\"" + c.service->version + "\"}");
             }},
        },
    .error = error,
}};

}  // namespace
}  // namespace sluice::openai
