// SPDX-License-Identifier: Apache-2.0
// vLLM's demonstration server: POST /generate with a prompt and sampling parameters. Its OpenAI routes are
// openai.cpp's.
#include "api/dialect.h"
#include "api/dialects/openai_parse.h"
#include "api/fields.h"
#include "api/metrics.h"
#include "api/stream.h"
#include "base/clock.h"

namespace sluice::vllm_demo {
namespace {

void error(const Failure& failure, const HttpRequest&, Reply& reply) {
  using Kind = RequestError::Kind;
  int status = failure.status;
  if (status == 0) {
    status = failure.kind == Kind::kOverloaded     ? 429
             : failure.kind == Kind::kUnavailable  ? 503
             : failure.kind == Kind::kGeneration   ? 500
             : failure.kind == Kind::kTooLarge     ? 413
             : failure.kind == Kind::kUnknownModel ? 404
                                                   : 400;
  }
  std::string out = "{\"detail\":";
  append_json_string(out, failure.message);
  reply.json(status, out + "}");
}

void append_texts(std::string& out, const std::vector<std::string>& texts) {
  out += "{\"text\":[";
  for (size_t i = 0; i < texts.size(); ++i) {
    if (i > 0) out += ',';
    append_json_string(out, texts[i]);
  }
  out += "]}";
}

// Every piece repeats the whole texts so far; a zero byte ends it.
class Writer final : public StreamWriter {
 public:
  Writer(const std::string& prompt, int32_t n) : texts_(static_cast<size_t>(n), prompt) {}
  void event(std::string& out, const Event& event) override {
    if (event.text.empty()) return;
    texts_[static_cast<size_t>(event.choice)] += event.text;
    append_texts(out, texts_);
    out += '\0';
  }
  void done(std::string&, const Usage&) override {}
  void failed(std::string& out, const RequestError& error) override {
    out += "{\"detail\":";
    append_json_string(out, error.what());
    out += "}";
    out += '\0';
  }

 private:
  std::vector<std::string> texts_;
};

void generate(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const Service& service = *context.service;
  HttpRequest asked;  // without the headers: the original reads the body whatever they say
  asked.body = http.body;
  openai::Call call = openai::read_completion(asked, service, openai::Manner::kVllm);
  const auto prompt = Fields{read_object(http.body).root()}.string("prompt");
  service.metrics->validated(monotonic_seconds() - http.arrived);
  if (call.stream) {
    stream(service, reply, std::move(call.requests[0]), std::make_shared<Writer>(*prompt, call.n));
    reply.headers.add("content-type", "application/json");
    return;
  }
  const auto finished = run(service, reply, std::move(call.requests[0]));
  if (!finished) return;
  std::vector<std::string> texts;
  for (const Answer& answer : finished->answers) texts.push_back(*prompt + answer.text);
  std::string out;
  append_texts(out, texts);
  reply.json(200, std::move(out));
}

bool claims(const Headers&, const BodyOutline& body) {
  return body.has("prompt") && !body.has("inputs") && !body.has("stop_sequences") && !body.has("do_sample");
}

const RegisterDialect registered{
    {.name = "vllm_demo", .routes = {{"POST", "/generate", generate, false, true, claims, 1}}, .error = error}};

}  // namespace
}  // namespace sluice::vllm_demo
