// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <algorithm>
#include <functional>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "engine/recording_sink.h"
#include "engine/script_executor.h"

namespace sluice {
namespace {

GenerateRequest ask(size_t n_prompt, int32_t n_new) {
  GenerateRequest r;
  r.prompt.assign(n_prompt, 'p');
  r.max_new_tokens = n_new;
  return r;
}

std::unique_ptr<Executor> null_executor(int64_t slots = 64, int64_t rows = 512, int64_t context = 4096) {
  ExecutorOptions o;
  o.max_seqs = slots;
  o.max_rows = rows;
  o.max_context = context;
  return make_null_executor(o, 258, 'x');
}

EngineOptions budget(int64_t rows) {
  EngineOptions options;
  options.token_budget = rows;
  return options;
}

double cpu_seconds() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  const auto s = [](timeval t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return s(u.ru_utime) + s(u.ru_stime);
}

bool eventually(const std::function<bool()>& condition) {
  for (const double end = monotonic_seconds() + 20; monotonic_seconds() < end;) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return condition();
}

RequestError::Kind refusal(Engine& engine, GenerateRequest r, const std::string& param) {
  try {
    engine.submit(std::move(r), std::make_shared<RecordingSink>());
  } catch (const RequestError& e) {
    CHECK(e.param() == param);
    CHECK(std::string(e.what()).size() > 20);
    return e.kind();
  }
  FAIL("the request was accepted");
  return {};
}

}  // namespace

TEST_CASE("the null model keeps the pace it is given") {
  ExecutorOptions o;
  o.max_seqs = o.max_rows = 4;
  o.max_context = 64;
  const auto paced = make_null_executor(o, 258, 'x', 200);
  Step step;
  StepResult result;
  const double began = monotonic_seconds();
  for (int i = 0; i < 20; ++i) {
    paced->run(step, result);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // inside the step's 5 ms
  }
  CHECK(monotonic_seconds() - began >= 0.0999);
}

TEST_CASE("256 concurrent requests all end once, with all their tokens in order") {
  const auto tokenizer = Tokenizer::bytes();
  EngineOptions options;
  options.max_waiting = 256;
  Engine engine(options, null_executor(), *tokenizer);
  std::vector<std::shared_ptr<RecordingSink>> sinks(256);
  std::vector<std::thread> clients;
  for (size_t t = 0; t < 4; ++t)
    clients.emplace_back([&, t] {
      for (size_t i = t; i < sinks.size(); i += 4) {
        sinks[i] = std::make_shared<RecordingSink>();
        engine.submit(ask(1 + i * 7 % 300, 1 + static_cast<int32_t>(i) % 90), sinks[i]);
      }
    });
  for (auto& c : clients) c.join();
  for (size_t i = 0; i < sinks.size(); ++i) {
    REQUIRE(sinks[i]->wait_end());
    CHECK(sinks[i]->choices[0].text == std::string(1 + i % 90, 'x'));
    CHECK(sinks[i]->choices[0].finish == FinishReason::kLength);
    CHECK(sinks[i]->usage.generated_tokens == static_cast<int32_t>(1 + i % 90));
    CHECK(sinks[i]->usage.prompt_tokens == static_cast<int32_t>(1 + i * 7 % 300));
    CHECK(sinks[i]->ends == 1);
    CHECK(sinks[i]->broken == 0);
    CHECK(sinks[i]->error.empty());
  }
  CHECK(engine.drain(10));
  CHECK(engine.stats().finished == 256);
  CHECK(engine.metrics().request_seconds.count == 256);
}

TEST_CASE("a request whose answer is there counts as running no more") {
  const auto tokenizer = Tokenizer::bytes();
  struct Asking : RecordingSink {
    void on_done(const Usage& usage) override {
      const EngineStats stats = engine->stats();
      busy += stats.running + stats.waiting;
      RecordingSink::on_done(usage);
    }
    Engine* engine = nullptr;
    int64_t busy = 0;
  };
  Engine engine({}, null_executor(), *tokenizer);
  for (int i = 0; i < 300; ++i) {
    const auto sink = std::make_shared<Asking>();
    sink->engine = &engine;
    engine.submit(ask(1, 1 + i % 3), sink);
    REQUIRE(sink->wait_end());
    CHECK(sink->busy == 0);
  }
}

TEST_CASE("a full queue refuses as overloaded and accepts again when there is room") {
  const auto tokenizer = Tokenizer::bytes();
  auto executor = std::make_unique<ScriptExecutor>(4, 64, 256, 64, say("a", 1));
  const auto gate = executor->gate = std::make_shared<std::atomic<bool>>(true);
  EngineOptions options = budget(64);
  options.max_waiting = 3;
  Engine engine(options, std::move(executor), *tokenizer);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 3; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    engine.submit(ask(1, 4), sinks.back());
  }
  CHECK(refusal(engine, ask(1, 4), "") == RequestError::Kind::kOverloaded);
  gate->store(false);
  for (auto& s : sinks) REQUIRE(s->wait_end());
  const auto late = std::make_shared<RecordingSink>();
  engine.submit(ask(1, 4), late);
  CHECK(late->wait_end());
}

TEST_CASE("a request beyond a limit is refused with the field's name") {
  const auto tokenizer = Tokenizer::bytes();
  Engine engine({}, null_executor(8, 512, 100), *tokenizer);
  const auto kValidation = RequestError::Kind::kValidation;
  CHECK(refusal(engine, ask(0, 4), "prompt") == kValidation);
  CHECK(refusal(engine, ask(100, 1), "prompt") == kValidation);
  CHECK(refusal(engine, ask(60, 41), "max_new_tokens") == kValidation);
  CHECK(refusal(engine, ask(4, 0), "max_new_tokens") == kValidation);
  GenerateRequest r = ask(4, 4);
  r.prompt[2] = 258;
  CHECK(refusal(engine, r, "prompt") == kValidation);
  r = ask(4, 4);
  r.n = 0;
  CHECK(refusal(engine, r, "n") == kValidation);
  r.n = 3;
  r.best_of = 2;
  CHECK(refusal(engine, r, "best_of") == kValidation);
  r = ask(4, 4);
  r.min_new_tokens = 5;
  CHECK(refusal(engine, r, "min_new_tokens") == kValidation);
  r = ask(4, 4);
  r.sampling.greedy = false;
  r.sampling.temperature = 0;
  CHECK(refusal(engine, r, "temperature") == kValidation);
  const auto sink = std::make_shared<RecordingSink>();
  engine.submit(ask(60, 40), sink);
  CHECK(sink->wait_end());
}

TEST_CASE("options beyond what the executor holds are refused") {
  const auto tokenizer = Tokenizer::bytes();
  CHECK_THROWS_AS(Engine(budget(513), null_executor(), *tokenizer), Error);
  EngineOptions options;
  options.max_batch = 65;
  CHECK_THROWS_AS(Engine(options, null_executor(), *tokenizer), Error);
}

TEST_CASE("what the executor's factory throws arrives at the caller") {
  const auto tokenizer = Tokenizer::bytes();
  const auto here = std::this_thread::get_id();
  bool elsewhere = false;
  const Engine::ExecutorFactory factory = [&]() -> std::unique_ptr<Executor> {
    elsewhere = std::this_thread::get_id() != here;
    throw Error("no such model");
  };
  CHECK_THROWS_WITH_AS(Engine({}, factory, *tokenizer), "no such model", Error);
  CHECK(elsewhere);
}

TEST_CASE("a cancelled request hears nothing more and gives its blocks back") {
  const auto tokenizer = Tokenizer::bytes();
  auto executor = std::make_unique<ScriptExecutor>(8, 64, 100000, 6400, say("a", 1));
  executor->pause_ms = 1;
  Engine engine(budget(64), std::move(executor), *tokenizer);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<uint64_t> ids;
  for (int i = 0; i < 12; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    GenerateRequest r = ask(1, 90000);
    r.n = r.best_of = i % 3 + 1;
    ids.push_back(engine.submit(r, sinks.back()));
  }
  REQUIRE(sinks[0]->wait_tokens(10));
  for (uint64_t id : ids) engine.cancel(id);
  engine.cancel(ids[0]);
  engine.cancel(123456);
  const auto heard = [&] {
    size_t n = 0;
    for (auto& s : sinks) n += s->tokens();
    return n;
  };
  const size_t before = heard();
  const auto let_go = [&] { return std::ranges::all_of(sinks, [](const auto& s) { return s.use_count() == 1; }); };
  CHECK(eventually(let_go));
  CHECK(heard() <= before + 1);  // one token may have been on its way
  for (auto& s : sinks) CHECK(s->end_count() == 0);
  CHECK(eventually([&] { return engine.stats().blocks_used == 0; }));
  const EngineStats stats = engine.stats();
  CHECK(stats.blocks_used == 0);
  CHECK(stats.running + stats.waiting == 0);
  CHECK(stats.cancelled == 12);
  CHECK(engine.drain(1));
}

TEST_CASE("cancelling at random moments never ends a sink twice nor leaves one behind") {
  const auto tokenizer = Tokenizer::bytes();
  EngineOptions options = budget(64);
  options.max_waiting = 1000;
  Engine engine(options, null_executor(16, 64, 4096), *tokenizer);
  std::vector<std::shared_ptr<RecordingSink>> sinks(400);
  std::vector<char> cancelled(400, 0);
  std::vector<std::thread> clients;
  for (size_t t = 0; t < 4; ++t)
    clients.emplace_back([&, t] {
      for (size_t i = t; i < sinks.size(); i += 4) {
        sinks[i] = std::make_shared<RecordingSink>();
        const uint64_t id = engine.submit(ask(1 + i % 50, 1 + static_cast<int32_t>(i * 13 % 200)), sinks[i]);
        if (i % 3 != 0) continue;
        std::this_thread::sleep_for(std::chrono::microseconds(i * 37 % 3000));
        engine.cancel(id);
        cancelled[i] = 1;
      }
    });
  for (auto& c : clients) c.join();
  for (size_t i = 0; i < sinks.size(); ++i)
    if (!cancelled[i]) REQUIRE(sinks[i]->wait_end());
  CHECK(engine.drain(10));
  for (auto& s : sinks) {
    CHECK(s->broken == 0);
    CHECK(s->end_count() <= 1);
    CHECK(s->error.empty());
  }
  const EngineStats stats = engine.stats();
  CHECK(stats.finished + stats.cancelled == 400);
}

TEST_CASE("draining refuses new requests, and finishes the accepted ones before the deadline") {
  const auto tokenizer = Tokenizer::bytes();
  auto executor = std::make_unique<ScriptExecutor>(8, 64, 256, 128, say("a", 1));
  executor->pause_ms = 2;
  Engine engine(budget(64), std::move(executor), *tokenizer);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 8; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    engine.submit(ask(1, 40), sinks.back());
  }
  std::thread drainer([&] { CHECK(engine.drain(20)); });
  CHECK(eventually([&] {
    try {
      engine.submit(ask(1, 1), std::make_shared<RecordingSink>());
    } catch (const RequestError& e) {
      return e.kind() == RequestError::Kind::kUnavailable;
    }
    return false;
  }));
  drainer.join();
  for (auto& s : sinks) {
    CHECK(s->end_count() == 1);
    CHECK(s->error.empty());
    CHECK(s->tokens() == 40);
  }
}

TEST_CASE("a drain past its deadline gives the rest an error, once") {
  const auto tokenizer = Tokenizer::bytes();
  auto executor = std::make_unique<ScriptExecutor>(2, 64, 100000, 12800, say("a", 1));
  executor->pause_ms = 1;
  auto engine = std::make_unique<Engine>(budget(64), std::move(executor), *tokenizer);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 5; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    engine->submit(ask(1, 90000), sinks.back());
  }
  CHECK_FALSE(engine->drain(0.05));
  engine.reset();
  for (auto& s : sinks) {
    CHECK(s->end_count() == 1);
    CHECK(s->error.find("shutting down") != std::string::npos);
    CHECK(s->broken == 0);
  }
}

TEST_CASE("an engine that goes away ends its requests with an error") {
  const auto tokenizer = Tokenizer::bytes();
  const auto sink = std::make_shared<RecordingSink>();
  {
    auto executor = std::make_unique<ScriptExecutor>(2, 512, 100000, 12800, say("a", 1));
    executor->pause_ms = 1;
    Engine engine({}, std::move(executor), *tokenizer);
    engine.submit(ask(1, 90000), sink);
    REQUIRE(sink->wait_tokens(3));
  }
  CHECK(sink->end_count() == 1);
  CHECK_FALSE(sink->error.empty());
}

TEST_CASE("an idle engine uses no CPU") {
  const auto tokenizer = Tokenizer::bytes();
  Engine engine({}, null_executor(), *tokenizer);
  const auto sink = std::make_shared<RecordingSink>();
  engine.submit(ask(10, 10), sink);
  REQUIRE(sink->wait_end());
  CHECK(eventually([] {  // not at once: the last answer's threads may still be falling asleep
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::seconds(1));
    return cpu_seconds() - before < 0.01;
  }));
}

TEST_CASE("a seed is drawn from the job's where none is given, and reported") {
  const auto tokenizer = Tokenizer::bytes();
  const auto run = [&](uint64_t job_seed) {
    EngineOptions options;
    options.job_seed = job_seed;
    Engine engine(options, null_executor(), *tokenizer);
    std::vector<uint64_t> seeds;
    for (int i = 0; i < 3; ++i) {
      const auto sink = std::make_shared<RecordingSink>();
      GenerateRequest r = ask(3, 3);
      if (i == 2) {
        r.has_seed = true;
        r.sampling.seed = 42;
      }
      engine.submit(r, sink);
      REQUIRE(sink->wait_end());
      seeds.push_back(sink->usage.seed);
    }
    return seeds;
  };
  const auto a = run(7), b = run(7), c = run(8), d = run(0), e = run(0);
  CHECK(a == b);
  CHECK(a[0] != a[1]);
  CHECK(a[2] == 42);
  CHECK(a[0] != c[0]);
  CHECK(d[0] != e[0]);
}

}  // namespace sluice
