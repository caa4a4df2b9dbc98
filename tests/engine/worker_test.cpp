// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <deque>

#include "engine/engine.h"
#include "engine/recording_sink.h"
#include "engine/script_executor.h"

namespace sluice {
namespace {

class ReplayExecutor : public ScriptExecutor {
 public:
  ReplayExecutor() : ScriptExecutor(8, 64, 256, 64, say("hello", 2)) {}
  void run(const Step& step, StepResult& result) override {
    ids.push_back(step.id);
    rows += step.rows();
    ended = step.shutdown;
    ScriptExecutor::run(step, result);
  }
  std::vector<uint64_t> ids;
  int64_t rows = 0;
  bool ended = false;
};

}  // namespace

TEST_CASE("a worker replays every step of the leader until the shutdown") {
  const auto tokenizer = Tokenizer::bytes();
  std::deque<std::vector<std::byte>> wire;
  EngineOptions options;
  options.token_budget = 64;
  options.broadcast = [&](std::span<const std::byte> bytes) { wire.emplace_back(bytes.begin(), bytes.end()); };
  {
    Engine engine(options, std::make_unique<ScriptExecutor>(8, 64, 256, 64, say("hello", 2)), *tokenizer);
    const auto sink = std::make_shared<RecordingSink>();
    GenerateRequest r;
    r.prompt = {'a', 'b'};
    r.max_new_tokens = 20;
    engine.submit(r, sink);
    REQUIRE(sink->wait_end());
  }
  ReplayExecutor worker;
  run_worker(worker, [&](std::vector<std::byte>& bytes) {
    if (wire.empty()) return false;
    bytes = std::move(wire.front());
    wire.pop_front();
    return true;
  });
  CHECK(worker.ended);
  CHECK(wire.empty());
  CHECK(worker.rows == 2 + 19);
  REQUIRE(worker.ids.size() == 21);
  for (size_t i = 0; i < worker.ids.size(); ++i) CHECK(worker.ids[i] == i + 1);
}

TEST_CASE("a worker returns when the leader is gone") {
  ReplayExecutor worker;
  run_worker(worker, [](std::vector<std::byte>&) { return false; });
  CHECK_FALSE(worker.ended);
}

}  // namespace sluice
