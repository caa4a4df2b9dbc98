// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/tgi_more.h"

#include "api/dialects/openai_answer.h"
#include "api/dialects/tgi_reply.h"
#include "api/fields.h"
#include "api/metrics.h"
#include "api/stream.h"
#include "base/clock.h"

namespace sluice::tgi {

using openai::Manner;

void chat(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  openai::answer(http, reply, *context.service, openai::read_chat(http, *context.service, Manner::kTgi));
}

void completion(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  openai::answer(http, reply, *context.service, openai::read_completion(http, *context.service, Manner::kTgi));
}

void chat_tokenize(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const JsonBody body = openai::parse(http);
  const ToolUse tools = read_tools(body.root()["tools"], body.root()["tool_choice"]);
  const std::string text = openai::render_chat(body.root(), *context.service, tools);
  std::string out = "{\"tokenize_response\":" + tokens(*context.service, text, false) + ",\"templated_text\":";
  append_json_string(out, text);
  out += '}';
  reply.json(200, std::move(out));
}

void vertex(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const Service& service = *context.service;
  const JsonBody body = openai::parse(http);
  JsonView instances = body.root()["instances"];
  if (instances.kind() != JsonView::Kind::kArray || instances.size() == 0)
    wrong_type("instances", instances, "a list of requests");
  if (static_cast<int64_t>(instances.size()) > service.limits.max_choices)
    invalid_field("instances", "instances: at most " + std::to_string(service.limits.max_choices) + " in one request");
  std::vector<GenerateRequest> requests;
  std::vector<std::string> prefixes;
  for (size_t i = 0; i < instances.size(); ++i) {
    const JsonView one = instances.at(i);
    if (one["inputs"].missing()) {
      HttpRequest inner;
      inner.body = one.dump();
      requests.push_back(openai::read_chat(inner, service, Manner::kTgi).requests[0]);
      prefixes.emplace_back();
      continue;
    }
    Prepared prepared = prepare(read_parameters(one), service, false, false);
    requests.push_back(std::move(prepared.request));
    prefixes.push_back(std::move(prepared.prefix));
  }
  service.metrics->validated(monotonic_seconds() - http.arrived);
  const auto finished = run_all(service, reply, std::move(requests));
  if (!finished) return;
  std::string out = "{\"predictions\":[";
  for (size_t i = 0; i < finished->size(); ++i) {
    if (i > 0) out += ',';
    append_json_string(out, prefixes[i] + (*finished)[i].answers[0].text);
  }
  out += "]}";
  reply.json(200, std::move(out));
}

}  // namespace sluice::tgi
