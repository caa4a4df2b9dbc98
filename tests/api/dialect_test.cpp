// SPDX-License-Identifier: Apache-2.0
#include "api/dialect.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "api/dialects/ollama_parse.h"
#include "api/dialects/openai_parse.h"
#include "api/fake_engine.h"
#include "api/pool.h"
#include "api/stream.h"
#include "api/watch.h"
#include "base/clock.h"

#include <sys/socket.h>
#include <unistd.h>

using namespace sluice;

namespace {

Dialect speaking(std::string name, std::string key, int priority) {
  Dialect d;
  d.name = std::move(name);
  Route route;
  route.method = "POST";
  route.path = "/generate";
  route.claims = [key](const Headers&, const BodyOutline& body) { return body.has(key); };
  route.priority = priority;
  d.routes.push_back(route);
  return d;
}

HttpRequest with_body(std::string body) {
  HttpRequest http;
  http.method = "POST";
  http.path = "/generate";
  http.body = std::move(body);
  return http;
}

}  // namespace

TEST_CASE("dialects that share a path are told apart by the body's members") {
  const Dialect two[] = {speaking("a", "inputs", 1), speaking("b", "prompt", 0)};
  Router router(two);
  CHECK(router.find(with_body(R"({"inputs":1})")).dialect->name == "a");
  CHECK(router.find(with_body(R"({"prompt":1})")).dialect->name == "b");
  CHECK(router.find(with_body(R"({"inputs":1,"prompt":1})")).dialect->name == "a");
  CHECK(router.claimants(with_body(R"({"inputs":1,"prompt":1})")).size() == 2);
  CHECK(router.find(with_body("nonsense")).dialect->name == "a");
}

TEST_CASE("a hole in a path stands for any text, and more literal text wins") {
  Dialect d;
  d.name = "a";
  for (const char* path :
       {"/v2/models/{}", "/v2/models/{}/versions/{}/generate", "/v2/models/{}/generate", "/v2/models/stats"}) {
    Route route;
    route.method = "GET";
    route.path = path;
    d.routes.push_back(route);
  }
  const Dialect one[] = {d};
  Router router(one);
  CHECK(router.find("GET", "/v2/models/stats").route->path == "/v2/models/stats");
  CHECK(router.find("GET", "/v2/models/stats").arguments.empty());
  CHECK(router.find("GET", "/v2/models/a/b").arguments == std::vector<std::string>{"a/b"});
  CHECK(router.find("GET", "/v2/models/m/generate").arguments == std::vector<std::string>{"m"});
  CHECK(router.find("GET", "/v2/models/m/versions/7/generate").arguments == std::vector<std::string>{"m", "7"});
  CHECK(router.find("POST", "/v2/models/m/generate").wrong_method);
  CHECK(router.find("GET", "/v2/models/").route == nullptr);
  const auto twice = router.find("GET", "/v2/models/m/versions/1/versions/2/generate");
  CHECK(twice.arguments == std::vector<std::string>{"m", "1/versions/2"});
  CHECK(router.find("GET", "/v2/models/m/generate/x").arguments == std::vector<std::string>{"m/generate/x"});
  std::string endless = "/v2/models/m";
  while (endless.size() < 60000) endless += "/versions/1";
  CHECK(router.find("GET", endless + "/generate").arguments.size() == 2);
  CHECK(router.find("GET", endless + "/other").arguments.size() == 1);
}

namespace {
// What comes within half a minute.
Generation::Next soon(Generation& generation, std::vector<Event>& events) {
  auto next = generation.next(events);
  for (double end = monotonic_seconds() + 30; next == Generation::Next::kIdle && monotonic_seconds() < end;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    next = generation.next(events);
  }
  return next;
}
}  // namespace

TEST_CASE("a generation that is dropped cancels what it started") {
  FakeEngine engine;
  engine.delay = 0.01;
  engine.answer.assign(1000, 65);
  Metrics metrics;
  Service service = engine.service(metrics);
  GenerateRequest request;
  request.prompt = {1};
  request.max_new_tokens = 1000;
  {
    Reply reply;
    Generation generation(service, reply, Generation::Mode::kStream);
    generation.start(request);
    generation.start(request);
    std::vector<Event> events;
    CHECK(soon(generation, events) == Generation::Next::kEvents);
  }
  CHECK(engine.cancelled == 2);
}

TEST_CASE("a stream is told of its output and of a client that has gone") {
  FakeEngine engine;
  engine.delay = 10;
  engine.answer.assign(10, 65);
  Metrics metrics;
  Service service = engine.service(metrics);
  Reply reply;
  std::atomic<int> told = 0;
  reply.ready = [&] { ++told; };
  std::function<void()> gone;
  reply.when_gone = [&](std::function<void()> f) { gone = std::move(f); };
  Generation generation(service, reply, Generation::Mode::kStream);
  GenerateRequest request;
  request.prompt = {1};
  request.max_new_tokens = 10;
  generation.start(request);
  std::vector<Event> events;
  CHECK(soon(generation, events) == Generation::Next::kEvents);
  CHECK(told == 1);
  CHECK(generation.next(events) == Generation::Next::kIdle);
  std::thread leaver([&] { gone(); });
  leaver.join();
  CHECK(told == 2);
  CHECK(generation.next(events) == Generation::Next::kGone);
}

TEST_CASE("the pool runs every task at once and outlives none") {
  std::atomic<int> inside = 0;
  std::atomic<bool> go = false;
  {
    ElasticPool pool;
    for (int i = 0; i < 200; ++i)
      CHECK(pool.run([&] {
        ++inside;
        while (!go) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }));
    double end = monotonic_seconds() + 60;
    while (inside < 200 && monotonic_seconds() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(inside == 200);
    go = true;
    pool.wait_empty();
  }
}

TEST_CASE("the watch reports a peer that closes, once, and nothing after removal") {
  ClientWatch watch;
  int pair[2];
  std::atomic<int> calls = 0;
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  uint64_t ticket = watch.add(pair[0], [&] { ++calls; });
  CHECK(send(pair[1], "x", 1, 0) == 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  CHECK(calls == 0);
  close(pair[1]);
  double end = monotonic_seconds() + 30;
  while (calls == 0 && monotonic_seconds() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(calls == 1);
  watch.remove(pair[0], ticket);
  close(pair[0]);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  ticket = watch.add(pair[0], [&] { ++calls; });
  watch.remove(pair[0], ticket);
  close(pair[1]);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  CHECK(calls == 1);
  close(pair[0]);
}

TEST_CASE("completions and Ollama fill a gap where the vocabulary has tokens for it") {
  FakeEngine engine;
  engine.tokenizer = Tokenizer::from_json(
      R"({"added_tokens": [{"id": 3, "content": "<fim_prefix>", "special": true},
         {"id": 4, "content": "<fim_suffix>", "special": true}, {"id": 5, "content": "<fim_middle>", "special": true}],
         "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []}})",
      "", "letters");
  Metrics metrics;
  const Service service = engine.service(metrics);
  const std::vector<int32_t> prompt = {3, 0, 4, 1, 1, 5}, stops = {3, 4, 5};
  HttpRequest http = with_body(R"({"prompt":"a","suffix":"bb","stop_token_ids":[2]})");
  const openai::Call completion = openai::read_completion(http, service, openai::Manner::kVllm);
  CHECK(completion.requests[0].prompt == prompt);
  CHECK(completion.requests[0].stop_ids == std::vector<int32_t>{2, 3, 4, 5});
  for (const char* refused :
       {R"({"prompt":"a","suffix":"b","echo":true})", R"({"prompt":"a","suffix":"b","truncate_prompt_tokens":3})",
        R"({"prompt":[0],"suffix":"b"})", R"({"prompt":"a","suffix":3})"}) {
    CAPTURE(refused);
    http.body = refused;
    CHECK_THROWS_AS(openai::read_completion(http, service, openai::Manner::kVllm), RequestError);
  }
  const auto generate = [&](const std::string& more) {
    const JsonBody body(R"({"model":"test-model","prompt":"a","suffix":"bb")" + more + "}");
    return ollama::read_generate(body.root(), service);
  };
  CHECK(generate("").request.prompt == prompt);
  CHECK(generate("").request.stop_ids == stops);
  for (const char* other : {R"(,"raw":true)", R"(,"system":"c")", R"(,"context":[0])"}) {
    CAPTURE(other);
    CHECK_THROWS_AS(generate(other), RequestError);
  }
}
