// SPDX-License-Identifier: Apache-2.0
// Triton Inference Server: the KServe v2 routes, the generate extension as the TensorRT-LLM backend's ensemble answers
// it, and the statistics.
#include <fmt/format.h>

#include "api/dialect.h"
#include "api/dialects/triton_reply.h"
#include "api/fields.h"
#include "base/clock.h"

namespace sluice::triton {
namespace {

struct Named {
  int status;
  std::string text;
};

Named name_of(RequestError::Kind kind, const std::string& message) {
  using Kind = RequestError::Kind;
  switch (kind) {
    case Kind::kUnknownModel:
      return {404, message};
    case Kind::kTooLarge:
      return {413, message};
    case Kind::kOverloaded:
      return {503, "Exceeds maximum queue size"};
    case Kind::kUnavailable:
      return {503, "Server not ready: " + message};
    case Kind::kGeneration:
      return {500, message};
    default:
      return {400, message};
  }
}

void error(const Failure& failure, const HttpRequest&, Reply& reply) {
  Named named = name_of(failure.kind, failure.message);
  if (failure.status != 0) named = {failure.status, failure.message};
  if (failure.status == 404) named.text = "Not Found";
  if (failure.status == 405) named.text = "Method Not Allowed";
  std::string out;
  append_error(out, named.text);
  reply.json(named.status, std::move(out));
}

ModelView model_of(const HttpRequest& http, const Service& service) {
  return find_model(service, http.arguments[0], http.arguments.size() > 1 ? http.arguments[1] : "");
}

// Times of one call, told to the statistics when it ends; a call that never got an answer counts as failed.
class Clock {
 public:
  Clock(const Service& service, std::string model, double arrived)
      : service_(service), model_(std::move(model)), arrived_(arrived) {}
  ~Clock() {
    if (!told_) service_.metrics->call_failed(model_, monotonic_seconds() - arrived_);
  }
  void submitted() { submitted_ = monotonic_seconds(); }
  // `answered`: when the last token was there.
  void done(int64_t batch, double answered, double queued) {
    const double now = monotonic_seconds();
    const double infer = std::max(0.0, answered - submitted_ - queued);
    service_.metrics->called(model_, batch, {now - arrived_, queued, submitted_ - arrived_, infer, now - answered});
    told_ = true;
  }

 private:
  const Service& service_;
  std::string model_;
  double arrived_, submitted_ = 0;
  bool told_ = false;
};

std::optional<std::vector<Finished>> run_rows(const HttpRequest& http, Reply& reply, const Service& service,
                                              Clock& clock, const std::vector<Row>& rows, double& queued) {
  service.metrics->validated(monotonic_seconds() - http.arrived);
  std::vector<GenerateRequest> requests;
  requests.reserve(rows.size());
  for (const Row& row : rows) requests.push_back(row.request);
  clock.submitted();
  auto finished = run_all(service, reply, std::move(requests));
  if (finished)
    for (const Finished& f : *finished) queued = std::max(queued, f.usage.queue_seconds);
  return finished;
}

void infer(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const Service& service = *context.service;
  const ModelView model = model_of(http, service);
  Clock clock(service, model.name, http.arrived);
  const InferRequest request = read_infer(http);
  std::vector<Row> rows;
  for (const Inputs& inputs : split_batch(request, model)) rows.push_back(read_row(inputs, model, service));
  for (const Row& row : rows)
    if (row.stream) invalid_field("stream", "Streaming is only supported in decoupled mode.");
  double queued = 0;
  const auto finished = run_rows(http, reply, service, clock, rows, queued);
  if (!finished) return;
  const double answered = monotonic_seconds();
  write_infer(reply, request, model.name, output_tensors(model, rows, *finished));
  clock.done(static_cast<int64_t>(rows.size()), answered, queued);
}

// The generate routes take the fields of the TensorRT-LLM backend under every name.
ModelView generating(const HttpRequest& http, const Service& service) {
  ModelView model = model_of(http, service);
  if (!model.example) return model;
  ModelView fields = models(service)[0];
  fields.name = model.name;
  return fields;
}

void generate(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const Service& service = *context.service;
  const ModelView model = generating(http, service);
  Clock clock(service, model.name, http.arrived);
  const JsonBody body = read_object(http.body);
  const std::vector<Row> rows{read_row(read_generate(body.root(), model), model, service)};
  if (rows[0].stream) invalid_field("stream", "Streaming is only supported in decoupled mode: use generate_stream");
  double queued = 0;
  const auto finished = run_rows(http, reply, service, clock, rows, queued);
  if (!finished) return;
  const double answered = monotonic_seconds();
  std::string out;
  append_generated(out, model.name, whole_piece(rows[0], (*finished)[0]));
  reply.json(200, std::move(out));
  clock.done(1, answered, queued);
}

class Writer final : public StreamWriter {
 public:
  Writer(const Service& service, std::string model, Row row, double arrived)
      : model_(model), row_(std::move(row)), clock_(service, std::move(model), arrived) {
    clock_.submitted();
  }

  void event(std::string& out, const Event& event) override {
    last_ = monotonic_seconds();
    if (event.has_token) {
      piece_.log_probs.push_back(event.token.logprob);
      piece_.cum_log_probs[0] += static_cast<double>(event.token.logprob);
    } else {
      piece_.log_probs.push_back(0);
    }
    piece_.texts[0] += event.text;
    const bool ended = event.finish != FinishReason::kNone;
    // Without `stream` the one answer comes when it is whole.
    if (row_.stream ? event.text.empty() && !ended : !ended) return;
    if (!row_.stream && !row_.exclude_input) piece_.texts[0].insert(0, row_.prompt);
    out += "data: ";
    append_generated(out, model_, piece_);
    out += "\n\n";
    piece_.texts[0].clear();
    piece_.log_probs.clear();
  }
  void done(std::string&, const Usage& usage) override { clock_.done(1, last_, usage.queue_seconds); }
  void failed(std::string& out, const RequestError& error) override {
    out += "data: ";
    append_error(out, error.what());
    out += "\n\n";
  }

 private:
  std::string model_;
  Row row_;
  Clock clock_;
  Piece piece_{{""}, {}, {0}};
  double last_ = 0;
};

void generate_stream(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  const Service& service = *context.service;
  const ModelView model = generating(http, service);
  const JsonBody body = read_object(http.body);
  Row row = read_row(read_generate(body.root(), model), model, service);
  if (row.request.n > 1)
    invalid_field("num_return_sequences", "num_return_sequences: one answer at a time is streamed");
  service.metrics->validated(monotonic_seconds() - http.arrived);
  GenerateRequest request = row.request;
  stream(service, reply, std::move(request),
         std::make_shared<Writer>(service, model.name, std::move(row), http.arrived));
  reply.headers.add("content-type", "text/event-stream; charset=utf-8");
  reply.keep_alive = kKeepAlive;
}

void ready(const HttpRequest&, Reply& reply, const RouteContext& context) {
  reply.content(context.state == ServerState::kReady ? 200 : 400, "text/plain", "");
}

void model_statistics(const HttpRequest& http, Reply& reply, const RouteContext& context) {
  try {
    reply.json(200, statistics({model_of(http, *context.service).name}, *context.service->metrics));
  } catch (const RequestError&) {
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("requested model '{}' is not available", http.arguments[0]), "model");
  }
}

void all_statistics(const HttpRequest&, Reply& reply, const RouteContext& context) {
  std::vector<std::string> names;
  for (const ModelView& model : models(*context.service)) names.push_back(model.name);
  reply.json(200, statistics(names, *context.service->metrics));
}

using Handler = std::function<void(const HttpRequest&, Reply&, const RouteContext&)>;

std::vector<Route> routes() {
  std::vector<Route> all = {
      {"GET", "/v2", [](const HttpRequest&, Reply& reply, const RouteContext&) { reply.json(200, server_metadata()); },
       false, false},
      {"GET", "/v2/health/live",
       [](const HttpRequest&, Reply& reply, const RouteContext&) { reply.content(200, "text/plain", ""); }, true,
       false},
      {"GET", "/v2/health/ready", ready, true, false},
      {"POST", "/v2/repository/index",
       [](const HttpRequest&, Reply& reply, const RouteContext& c) { reply.json(200, index(models(*c.service))); }},
      {"GET", "/v2/models/stats", all_statistics},
  };
  for (const char* action : {"load", "unload"})
    all.push_back({"POST", std::string("/v2/repository/models/{}/") + action,
                   [](const HttpRequest&, Reply&, const RouteContext& c) {
                     invalid_field("model",
                                   fmt::format("explicit model load / unload is not allowed: this server serves "
                                               "'{}' as its job was started",
                                               c.service->model.id));
                   }});
  const auto add = [&](const char* method, const std::string& action, const Handler& handler) {
    all.push_back({method, "/v2/models/{}" + action, handler});
    all.push_back({method, "/v2/models/{}/versions/{}" + action, handler});
  };
  add("GET", "", [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
    reply.json(200, metadata(model_of(http, *c.service)));
  });
  add("GET", "/ready", [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
    model_of(http, *c.service);
    reply.content(200, "text/plain", "");
  });
  add("GET", "/config", [](const HttpRequest& http, Reply& reply, const RouteContext& c) {
    reply.json(200, config(model_of(http, *c.service)));
  });
  add("GET", "/stats", model_statistics);
  add("POST", "/infer", infer);
  add("POST", "/generate", generate);
  add("POST", "/generate_stream", generate_stream);
  return all;
}

const RegisterDialect registered{{.name = "triton", .routes = routes(), .error = error}};

}  // namespace
}  // namespace sluice::triton
