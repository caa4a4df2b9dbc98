// SPDX-License-Identifier: Apache-2.0
// The Energon-AI BLOOM example: one route, greedy, prompt and continuation in one string.
#include <fmt/format.h>

#include "api/dialect.h"
#include "api/fields.h"
#include "api/metrics.h"
#include "api/prompt.h"
#include "api/stream.h"
#include "base/clock.h"

namespace sluice::energon {
namespace {

// FastAPI's form for a body that does not fit.
void append_detail(std::string& out, const std::string& field, const std::string& message, std::string_view type) {
  out += "{\"detail\":[{\"loc\":[\"body\"";
  if (!field.empty()) {
    out += ',';
    append_json_string(out, field);
  }
  out += "],\"msg\":";
  append_json_string(out, message);
  out += ",\"type\":";
  append_json_string(out, type);
  out += "}]}";
}

void error(const Failure& failure, const HttpRequest&, Reply& reply) {
  using Kind = RequestError::Kind;
  std::string out;
  if (failure.status == 0 && (failure.kind == Kind::kMalformed || failure.kind == Kind::kValidation)) {
    append_detail(out, failure.param, failure.message,
                  failure.kind == Kind::kMalformed ? "value_error.jsondecode" : "value_error");
    return reply.json(422, std::move(out));
  }
  const auto detail = [&](int status, std::string_view message) {
    out = "{\"detail\":";
    append_json_string(out, message);
    out += '}';
    reply.json(status, std::move(out));
  };
  if (failure.status != 0) return detail(failure.status, failure.message);
  switch (failure.kind) {
    case Kind::kOverloaded:  // the original's word for it is 406
      return detail(406, "Submit queue full: " + failure.message);
    case Kind::kUnavailable:
      return detail(503, failure.message);
    case Kind::kTooLarge:
      return detail(413, failure.message);
    default:
      return detail(500, failure.message);
  }
}

void generation(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const Service& service = *context.service;
  const JsonBody json = read_object(http.body);
  const Fields fields{json.root()};
  const auto prompt = fields.string("prompt");
  if (!prompt) invalid_field("prompt", "field required");
  if (prompt->empty()) invalid_field("prompt", "ensure this value has at least 1 characters");
  const auto wanted = fields.integer("max_new_tokens");
  if (!wanted) invalid_field("max_new_tokens", "field required");
  if (*wanted < 1 || *wanted > 256)
    invalid_field("max_new_tokens", fmt::format("expected 1 to 256, found {}", *wanted));
  // top_k, top_p and greedy may come: the best token survives all of them, and it is the one that is taken.
  fields.integer("top_k");
  fields.number("top_p");
  fields.boolean("greedy", false);
  GenerateRequest r;
  r.prompt = service.tokenizer->encode(*prompt, true);
  fit_prompt(r, wanted, service.limits);
  service.metrics->validated(monotonic_seconds() - http.arrived);
  const auto finished = run(service, reply, std::move(r));
  if (!finished) return;
  std::string out = "{\"text\":\"";
  append_json_text(out, *prompt);
  append_json_text(out, finished->answers[0].text);
  out += "\"}";
  reply.json(200, std::move(out));
}

const RegisterDialect registered{{.name = "energon", .routes = {{"POST", "/generation", generation}}, .error = error}};

}  // namespace
}  // namespace sluice::energon
