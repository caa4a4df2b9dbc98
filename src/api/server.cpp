// SPDX-License-Identifier: Apache-2.0
#include "api/server.h"

#include <fmt/format.h>

#include <atomic>
#include <random>

#include "api/json.h"
#include "api/origin.h"
#include "api/request_log.h"
#include "base/clock.h"
#include "base/log.h"

namespace sluice {
namespace {

// Takes the same time whatever the first difference is; only the length of the key can show.
bool same_key(std::string_view given, std::string_view key) {
  unsigned char difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) difference |= static_cast<unsigned char>(given[i] ^ key[i % key.size()]);
  return difference == 0;
}

bool authorised(const HttpRequest& request, std::string_view key) {
  std::string_view value = request.headers.get("authorization");
  if (value.size() < 7) return false;
  std::string_view scheme = value.substr(0, 7);
  if (scheme != "Bearer " && scheme != "bearer ") return false;
  return same_key(value.substr(7), key);
}

std::string draw_id() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{:016x}{:016x}", random(), random());
}

// As given when it is fit for a header and a log line.
std::string request_id(std::string_view given) {
  bool fit = !given.empty() && given.size() <= 128;
  for (char c : given)
    fit = fit && (std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.' || c == ':');
  return fit ? std::string(given) : draw_id();
}

// For requests that belong to no dialect.
void plain_error(int status, std::string_view message, std::string_view type, Reply& reply) {
  std::string out = "{\"error\":";
  append_json_string(out, message);
  out += ",\"error_type\":";
  append_json_string(out, type);
  out += '}';
  reply.json(status, std::move(out));
}

void unreadable(int status, Reply& reply) {
  switch (status) {
    case 408:
      return plain_error(status, "the request's headers did not arrive in time", "timeout", reply);
    case 414:
      return plain_error(status, "the request line is too long", "too_long", reply);
    case 431:
      return plain_error(status, "the request's headers are too long", "too_long", reply);
    case 503:
      return plain_error(status, "too many connections; try again later", "overloaded", reply);
    default:
      return plain_error(status, "not a well-formed HTTP/1.1 request", "malformed", reply);
  }
}

}  // namespace

struct Server::Impl {
  Impl(ServerOptions o, std::span<const Dialect> dialects) : options(std::move(o)), router(dialects) {
    if (!options.request_log.empty()) log = std::make_unique<RequestLog>(options.request_log, options.log_prompts);
  }

  void fail(const Dialect* dialect, Failure failure, const HttpRequest& request, Reply& reply) const {
    Reply fresh;
    fresh.when_gone = std::move(reply.when_gone);
    fresh.ready = std::move(reply.ready);
    fresh.account = std::move(reply.account);
    reply = std::move(fresh);
    if (dialect != nullptr && dialect->error) return dialect->error(failure, request, reply);
    plain_error(failure.status != 0 ? failure.status : 500, failure.message, "request", reply);
  }

  void route(HttpRequest& request, const Transport::ReadBody& read_body, Reply& reply, Router::Match& match) const {
    // What a request without a body wants is known from its headers.
    const bool bare = request.method == "GET" || request.method == "HEAD";
    match = bare ? router.find(request) : router.find(request.method, request.path);
    if (options.key.empty() && !host_allowed(request.headers.get("host"), options.names)) {
      fail(match.dialect,
           {RequestError::Kind::kMalformed,
            fmt::format("this server does not answer as '{}'; ALLOWED_HOSTS names further ones",
                        request.headers.get("host").substr(0, 128)),
            "", 403},
           request, reply);
      return;
    }
    // A browser sends what a page asks of any server before it keeps the answer from the page.
    const std::string_view origin = request.headers.get("origin");
    if (options.key.empty() && !bare && !origin.empty() && !origin_allowed(origin, options.origins) &&
        !same_host(origin, request.headers.get("host"))) {
      fail(match.dialect,
           {RequestError::Kind::kMalformed,
            fmt::format("this server does nothing for pages of '{}'; CORS_ALLOW_ORIGIN names further ones",
                        origin.substr(0, 128)),
            "", 403},
           request, reply);
      return;
    }
    if (match.route == nullptr) {
      std::string message = match.wrong_method ? fmt::format("{} is not offered by {}", request.method, request.path)
                                               : fmt::format("there is no {}", request.path.substr(0, 256));
      fail(match.dialect, {RequestError::Kind::kMalformed, message, "", match.wrong_method ? 405 : 404}, request,
           reply);
      return;
    }
    if (!options.key.empty() && !match.route->open && !authorised(request, options.key)) {
      std::string message = request.headers.get("authorization").empty()
                                ? "this server asks for its job's key: send the header Authorization: Bearer KEY"
                                : "the key is not this job's; send the header Authorization: Bearer KEY";
      fail(match.dialect, {RequestError::Kind::kMalformed, message, "", 401}, request, reply);
      reply.headers.add("www-authenticate", "Bearer");
      return;
    }
    RouteContext context{state.load(), service.load()};
    if (match.route->needs_model && context.state != ServerState::kReady) {
      std::string message = context.state == ServerState::kLoading ? "the model is loading"
                                                                   : "the server is draining and takes no new requests";
      fail(match.dialect, {RequestError::Kind::kUnavailable, message, "", 0}, request, reply);
      reply.headers.add("retry-after", "2");
      return;
    }
    switch (read_body()) {
      case BodyResult::kOk:
        break;
      case BodyResult::kTooLarge:
        return fail(
            match.dialect,
            {RequestError::Kind::kTooLarge,
             fmt::format("the body is larger than the limit of {} bytes (PAYLOAD_LIMIT)", options.transport.max_body),
             "", 413},
            request, reply);
      case BodyResult::kUnsupported:
        return fail(
            match.dialect,
            {RequestError::Kind::kMalformed, "send the body as it is: no Content-Encoding, no multipart form", "", 415},
            request, reply);
      case BodyResult::kMalformed:
        return fail(
            match.dialect,
            {RequestError::Kind::kMalformed, "the body does not fit its Content-Length or Transfer-Encoding", "", 400},
            request, reply);
      case BodyResult::kBroken:
        return fail(match.dialect, {RequestError::Kind::kMalformed, "the body did not arrive in time", "", 408},
                    request, reply);
    }
    match = router.find(request);
    request.arguments = match.arguments;
    try {
      match.route->handler(request, reply, context);
    } catch (const RequestError& error) {
      if (context.service != nullptr) count_failure(error.kind());
      fail(match.dialect, {error.kind(), error.what(), error.param(), 0}, request, reply);
      if (error.kind() == RequestError::Kind::kOverloaded) reply.headers.add("retry-after", "1");
    } catch (const std::exception& error) {
      log_error(fmt::format("{} {} failed: {}", request.method, request.path, error.what()));
      fail(match.dialect, {RequestError::Kind::kGeneration, "internal error; the server's log says more", "", 500},
           request, reply);
    }
  }

  // A browser asks before a page of another origin may send a key or JSON.
  static void preflight(Reply& reply) {
    reply.status = 204;
    reply.headers.add("access-control-allow-methods", "GET, POST, OPTIONS");
    reply.headers.add("access-control-allow-headers", "authorization, content-type, x-request-id");
    reply.headers.add("access-control-max-age", "600");
  }

  void count_failure(RequestError::Kind kind) const {
    switch (kind) {
      case RequestError::Kind::kOverloaded:
        return metrics->request_failed("overloaded");
      case RequestError::Kind::kGeneration:
        return metrics->request_failed("generation");
      case RequestError::Kind::kTemplate:
        return metrics->request_failed("template");
      default:
        return metrics->request_failed("validation");
    }
  }

  void handle(HttpRequest& request, const Transport::ReadBody& read_body, Reply& reply) const {
    request.id = request_id(request.headers.get("x-request-id"));
    if (log != nullptr) log->open(reply);
    Router::Match match;
    const std::string_view origin = request.headers.get("origin");
    const bool known = !origin.empty() && origin_allowed(origin, options.origins);
    if (known && request.method == "OPTIONS" && !request.headers.get("access-control-request-method").empty()) {
      preflight(reply);
    } else {
      route(request, read_body, reply, match);
    }
    if (known) {
      reply.headers.add("access-control-allow-origin", std::string(origin));
      reply.headers.add("vary", "origin");
    }
    reply.headers.add("x-request-id", request.id);
    if (!options.job_id.empty()) reply.headers.add("x-job-id", options.job_id);
    metrics->replied(reply.status);
    if (log != nullptr) {
      const Service* served = service.load();
      log->close(request, match.dialect != nullptr ? match.dialect->name : "", reply,
                 served != nullptr ? served->tokenizer : nullptr);
    }
    log_debug(fmt::format("{} {} {} {}", request.id, request.method, request.path, reply.status));
  }

  ServerOptions options;
  Router router;
  std::unique_ptr<RequestLog> log;
  Metrics* metrics = nullptr;
  std::atomic<ServerState> state = ServerState::kLoading;
  std::atomic<const Service*> service = nullptr;
  std::unique_ptr<Transport> transport;  // last: its threads use the rest
};

Server::Server(ServerOptions options, std::span<const Dialect> dialects)
    : metrics_(std::make_unique<Metrics>()), impl_(std::make_unique<Impl>(std::move(options), dialects)) {
  Impl& impl = *impl_;
  impl.metrics = metrics_.get();
  impl.options.transport.counted = [&metrics = *metrics_](int change) { metrics.connection(change); };
  int fd = listen_on(impl.options.host, impl.options.ports, port_);
  impl.transport = std::make_unique<Transport>(
      fd, impl.options.transport,
      [&impl](HttpRequest& request, const Transport::ReadBody& read, Reply& reply) {
        impl.handle(request, read, reply);
      },
      unreadable);
}

Server::~Server() { stop(0); }

void Server::ready(const Service& service) {
  impl_->service = &service;
  impl_->state = ServerState::kReady;
}
void Server::drain() { impl_->state = ServerState::kDraining; }
void Server::stop(double grace) { impl_->transport->stop(grace); }
int Server::connections() const { return impl_->transport->connections(); }

}  // namespace sluice
