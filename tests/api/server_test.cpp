// SPDX-License-Identifier: Apache-2.0
#include "api/server.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <functional>

#include "api/fake_engine.h"
#include "api/wire.h"
#include "base/clock.h"
#include "places.h"

using namespace sluice;

namespace {

struct Fixture {
  explicit Fixture(std::string key = "", TransportOptions transport = {}) {
    ServerOptions options;
    options.host = "127.0.0.1";
    options.ports = {0};
    options.key = std::move(key);
    options.job_id = "1234";
    options.transport = transport;
    server = std::make_unique<Server>(options);
    service = engine.service(server->metrics());
    service.limits.max_total_tokens = 1 << 20;
    server->ready(service);
  }
  ~Fixture() { server->stop(0); }
  int port() const { return server->port(); }
  FakeEngine engine;
  Service service;
  std::unique_ptr<Server> server;
};

const std::string kGenerate = R"({"inputs":"abc","parameters":{"max_new_tokens":2}})";

bool eventually(const std::function<bool()>& condition, double seconds = 30) {
  for (double end = monotonic_seconds() + seconds; monotonic_seconds() < end;) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return condition();
}

}  // namespace

TEST_CASE("a server that loads answers 503, one that drains too, health included") {
  ServerOptions options;
  options.host = "127.0.0.1";
  options.ports = {0};
  Server server(options);
  CHECK(ask(server.port(), get("/health")).status == 503);
  CHECK(ask(server.port(), get("/")).body.find("\"loading\"") != std::string::npos);
  WireReply refused = ask(server.port(), post("/v1/completions", "{}"));
  CHECK(refused.status == 503);
  CHECK(refused.header("retry-after") == "2");
  FakeEngine engine;
  Service service = engine.service(server.metrics());
  server.ready(service);
  CHECK(ask(server.port(), get("/health")).status == 200);
  server.drain();
  CHECK(ask(server.port(), get("/health")).status == 503);
  CHECK(ask(server.port(), post("/generate", kGenerate)).status == 503);
  server.stop(0);
}

TEST_CASE("the port walk passes over ports in use and says so when none is left") {
  ServerOptions first;
  first.host = "127.0.0.1";
  first.ports = {0};
  Server one(first);
  ServerOptions second = first;
  second.ports = {one.port(), 0};
  Server two(second);
  CHECK(two.port() != one.port());
  second.ports = {one.port()};
  CHECK_THROWS_WITH_AS(Server{second}, doctest::Contains("in use"), Error);
  second.host = "no.such.host.invalid";
  CHECK_THROWS_AS(Server{second}, Error);
}

TEST_CASE("every route but liveness asks for the key") {
  Fixture f("s3cret");
  for (const char* path : {"/health", "/ping"}) CHECK(ask(f.port(), get(path)).status == 200);
  Wire head(f.port());
  head.send(get("/", "", "HEAD"));
  CHECK(head.until("\r\n\r\n").rfind("HTTP/1.1 200", 0) == 0);
  for (const char* path : {"/", "/info", "/metrics", "/v1/models"}) {
    CHECK(ask(f.port(), get(path)).status == 401);
    CHECK(ask(f.port(), get(path, "authorization: Bearer s3cret\r\n")).status == 200);
  }
  for (const char* key :
       {"Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cretx", "Bearer S3cret", "Basic s3cret", "s3cret"}) {
    INFO(key);
    WireReply tgi = ask(f.port(), post("/generate", kGenerate, std::string("authorization: ") + key + "\r\n"));
    CHECK(tgi.status == 401);
    CHECK(tgi.header("www-authenticate") == "Bearer");
    CHECK(tgi.body.find("\"error\":\"") != std::string::npos);
  }
  WireReply openai = ask(f.port(), post("/v1/chat/completions", "{}"));
  CHECK(openai.status == 401);
  CHECK(openai.body.find("{\"error\":{\"message\":") == 0);
  CHECK(f.engine.submitted == 0);
}

TEST_CASE("request and job ids are in every reply, and only fit ids come back") {
  Fixture f;
  CHECK(ask(f.port(), get("/health", "x-request-id: abc-1\r\n")).header("x-request-id") == "abc-1");
  CHECK(ask(f.port(), get("/health")).header("x-job-id") == "1234");
  CHECK(ask(f.port(), get("/nowhere")).header("x-request-id").size() == 32);
  CHECK(ask(f.port(), get("/health", "x-request-id: a%0d%0ab\r\n")).header("x-request-id").size() == 32);
}

TEST_CASE("unknown paths and methods are told apart") {
  Fixture f;
  CHECK(ask(f.port(), get("/nowhere")).status == 404);
  CHECK(ask(f.port(), get("/v1/nowhere")).body.find("{\"error\":{") == 0);
  CHECK(ask(f.port(), get("/generate")).status == 405);
  CHECK(ask(f.port(), post("/health", "{}")).status == 405);
  CHECK(ask(f.port(), get("/generate", "", "DELETE")).status == 405);
}

TEST_CASE("one connection carries many requests, also after errors") {
  Fixture f;
  Wire wire(f.port());
  for (int i = 0; i < 20; ++i) {
    wire.send(post("/generate", i % 2 ? kGenerate : "{"));
    CHECK(wire.reply().status == (i % 2 ? 200 : 400));
    wire.send(get("/health"));
    CHECK(wire.reply().status == 200);
  }
}

TEST_CASE("bodies over the limit are refused however they are framed") {
  TransportOptions transport;
  transport.max_body = 1000;
  Fixture f("", transport);
  const std::string large(5000, 'x');
  WireReply plain = ask(f.port(), post("/generate", large));
  CHECK(plain.status == 413);
  CHECK(plain.body.find("1000 bytes") != std::string::npos);
  const std::string head = "POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
  std::string chunked = head + "transfer-encoding: chunked\r\n\r\n";
  for (int i = 0; i < 5; ++i) chunked += "3e8\r\n" + large.substr(0, 1000) + "\r\n";
  CHECK(ask(f.port(), chunked + "0\r\n\r\n").status == 413);
  CHECK(ask(f.port(), head + "transfer-encoding: chunked\r\n\r\n-1\r\n" + large).status >= 400);
  CHECK(ask(f.port(), head + "transfer-encoding: chunked\r\n\r\n" + std::string(200000, '1')).status >= 400);
  CHECK(ask(f.port(), head + "content-length: 99999999999999\r\n\r\n").status == 413);
  CHECK(ask(f.port(), head + "content-length: -5\r\n\r\n").status == 400);
  CHECK(ask(f.port(), head + "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").status == 400);
  CHECK(ask(f.port(), head + "content-length: 5\r\ncontent-encoding: gzip\r\n\r\nabcde").status == 415);
  std::string small = head + "transfer-encoding: chunked\r\n\r\n";
  for (char c : kGenerate) small += std::string("1\r\n") + c + "\r\n";
  CHECK(ask(f.port(), small + "0\r\n\r\n").status == 200);
  CHECK(f.engine.submitted == 1);
}

TEST_CASE("a Range of any length is ignored") {
  Fixture f;
  std::string ranges = "5-";
  for (int i = 0; i < 1900; ++i) ranges += ",0-1";
  for (const char* name : {"Range", "range", "RANGE"}) {
    CHECK(ask(f.port(), get("/health", std::string(name) + ": bytes=" + ranges + "\r\n")).status == 200);
    CHECK(ask(f.port(), get("/health", std::string(name) + ": bytes=0-0\r\n")).status == 200);
  }
}

TEST_CASE("headers without end are cut off") {
  Fixture f;
  CHECK(ask(f.port(), get("/health", "x: " + std::string(7000, 'a') + "\r\n")).status == 200);
  CHECK(ask(f.port(), get("/health", "x: " + std::string(100000, 'a') + "\r\n")).status >= 400);
  std::string many;
  for (int i = 0; i < 5000; ++i) many += "header-number-" + std::to_string(i) + ": value\r\n";
  CHECK(ask(f.port(), get("/health", many)).status == 431);
  CHECK(ask(f.port(), get("/" + std::string(20000, 'a'))).status == 414);
  CHECK(ask(f.port(), get("/" + std::string(5000, 'a'))).status == 404);
  CHECK(ask(f.port(), "NONSENSE\r\n\r\n").status == 400);
}

TEST_CASE("a client that dribbles its headers or body is dropped") {
  TransportOptions transport;
  transport.head_seconds = 1;
  transport.body_seconds = 1;
  Fixture f("", transport);
  Wire silent(f.port()), half(f.port()), body(f.port());
  half.send("GET /health HTTP/1.1\r\nhost: x\r\n");
  body.send("POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{");
  CHECK(half.reply().status == 408);
  CHECK(body.reply().status == 408);
  CHECK(silent.closed());
  Wire dribble(f.port());
  double start = monotonic_seconds();
  dribble.send("GET /health HTTP/1.1\r\n");
  while (monotonic_seconds() < start + 10 && !dribble.more(0.05)) dribble.send("x: y\r\n");
  CHECK(monotonic_seconds() - start < 6);
}

TEST_CASE("a client that leaves cancels its request, streaming or not") {
  Fixture f;
  f.engine.delay = 0.02;
  f.engine.answer.assign(100000, 65);
  for (const char* path : {"/generate", "/generate_stream"}) {
    INFO(path);
    int before = f.engine.cancelled;
    {
      Wire wire(f.port());
      wire.send(post(path, R"({"inputs":"abc","parameters":{"max_new_tokens":100000}})"));
      if (std::string(path) == "/generate_stream") wire.until("\"index\":2");
      CHECK(eventually([&] { return f.engine.submitted > before; }));
    }
    double left = monotonic_seconds();
    CHECK(eventually([&] { return f.engine.cancelled > before; }));
    CHECK(monotonic_seconds() - left < 2);  // milliseconds on a quiet machine
  }
}

TEST_CASE("a reader that takes nothing is cancelled in bounded time") {
  TransportOptions transport;
  transport.write_seconds = 0.3;
  Fixture f("", transport);
  f.engine.answer.assign(1 << 20, 65);
  f.engine.delay = 0.001;
  f.engine.burst = 500;  // the socket is full long before all is said
  Wire wire(f.port());
  int small = 4096;
  setsockopt(wire.descriptor(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  wire.send(post("/generate_stream", R"({"inputs":"abc","parameters":{"max_new_tokens":1000000,"top_n_tokens":5}})"));
  CHECK(eventually([&] { return f.engine.cancelled == 1; }, 30));
}

TEST_CASE("the request log has one line per exchange, with prompts only when asked") {
  for (const bool prompts : {false, true}) {
    INFO(prompts);
    const std::string path = test::build_dir().string() + "/request_log_" + std::to_string(::getpid());
    ServerOptions options;
    options.host = "127.0.0.1";
    options.ports = {0};
    options.request_log = path;
    options.log_prompts = prompts;
    {
      Server server(options);
      FakeEngine engine;
      Service service = engine.service(server.metrics());
      server.ready(service);
      ask(server.port(), post("/generate", kGenerate, "x-request-id: first\r\n"));
      ask(server.port(), post("/generate_stream", kGenerate, "x-request-id: second\r\n"));
      ask(server.port(), post("/v1/completions", "{}", "x-request-id: third\r\n"));
      server.stop(1);
    }
    std::ifstream file(path);
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    std::remove(path.c_str());
    CHECK(lines.size() == 3);
    // A stream's line may come after that of the next exchange.
    const auto has = [&](const std::string& id, const std::string& part) {
      for (const std::string& line : lines)
        if (line.find("\"id\":\"" + id + "\",") != std::string::npos) return line.find(part) != std::string::npos;
      return false;
    };
    CHECK(has("first", "\"method\":\"POST\",\"path\":\"/generate\",\"dialect\":\"tgi\",\"status\":200,"));
    CHECK(has("first", "\"complete\":true,\"prompt_tokens\":4,\"cached_tokens\":0,\"generated_tokens\":2,"));
    CHECK(has("second", "\"stream\":true"));
    CHECK(has("second", "\"generated_tokens\":2,"));
    CHECK(has("third", "\"dialect\":\"openai\",\"status\":400"));
    CHECK(has("first", "abc\"]") == prompts);
    CHECK(has("second", "abc\"]") == prompts);
  }
}

TEST_CASE("300 streams at once all end well while health answers") {
  Fixture f;
  f.service.limits.max_concurrent_requests = 1000;
  f.engine.delay = 0.02;
  f.engine.answer.assign(30, 65);
  std::vector<Wire> wires;
  for (int i = 0; i < 300; ++i) {
    wires.emplace_back(f.port());
    wires.back().send(post("/generate_stream", R"({"inputs":"abc","parameters":{"max_new_tokens":40}})"));
  }
  for (int i = 0; i < 10; ++i) CHECK(ask(f.port(), get("/health")).status == 200);
  for (Wire& wire : wires) {
    WireReply r = wire.reply();
    CHECK(r.status == 200);
    CHECK(r.body.find("\"generated_text\":\"" + std::string(30, 'A') + "\"") != std::string::npos);
  }
  CHECK(eventually([&] { return f.engine.finished == 300; }));
}

TEST_CASE("old HTTP gets a stream without chunks and a closed connection") {
  Fixture f;
  Wire wire(f.port());
  const std::string body = R"({"inputs":"abc","parameters":{"max_new_tokens":2}})";
  wire.send("POST /generate_stream HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: " +
            std::to_string(body.size()) + "\r\n\r\n" + body);
  std::string head = wire.until("\r\n\r\n");
  CHECK(head.find("chunked") == std::string::npos);
  CHECK(wire.until("\n\n").rfind("data: {\"index\":1", 0) == 0);
  CHECK(wire.closed());
}

TEST_CASE("stopping lets replies finish within the grace and cuts the rest") {
  Fixture f;
  f.engine.delay = 0.05;
  f.engine.answer.assign(100000, 65);
  Wire idle(f.port()), quick(f.port()), endless(f.port());
  idle.send(get("/health"));
  CHECK(idle.reply().status == 200);
  quick.send(post("/generate_stream", R"({"inputs":"a","parameters":{"max_new_tokens":5}})"));
  endless.send(post("/generate_stream", R"({"inputs":"a","parameters":{"max_new_tokens":100000}})"));
  CHECK(eventually([&] { return f.engine.submitted == 2; }));
  double start = monotonic_seconds();
  f.server->stop(2);
  CHECK(monotonic_seconds() - start < 20);
  CHECK(quick.reply().body.find("\"generated_text\":\"AAAAA\"") != std::string::npos);
  CHECK(idle.closed());
  CHECK(endless.closed());
  CHECK(f.engine.cancelled == 1);
}

TEST_CASE("connections beyond the limit are turned away at once") {
  TransportOptions transport;
  transport.max_connections = 3;
  Fixture f("", transport);
  std::vector<Wire> held;
  for (int i = 0; i < 3; ++i) {
    held.emplace_back(f.port());
    held.back().send(get("/health"));
    CHECK(held.back().reply().status == 200);
  }
  CHECK(Wire(f.port()).reply().status == 503);
  held.clear();
  CHECK(eventually([&] { return ask(f.port(), get("/health")).status == 200; }));
}
