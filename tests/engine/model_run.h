// SPDX-License-Identifier: Apache-2.0
// Requests through a whole engine over a golden checkpoint: thread ranks, any layout, any cache.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "comm/thread_groups.h"
#include "engine/engine.h"
#include "engine/grammar_compiler.h"
#include "engine/recording_sink.h"
#include "grammar/runtime.h"
#include "model/run_model.h"

namespace sluice {

using test::Golden;
using test::read_golden;

// What one rank needs, made on its executor thread.
class Rank : public Executor {
 public:
  Rank(const Golden& golden, Groups groups, const ExecutorOptions& options, const std::string& dtype = "auto")
      : groups_(std::move(groups)) {
    CpuOptions cpu;
    cpu.threads = 1;
    if (const char* isa = std::getenv("SLUICE_CPU_ISA")) cpu.isa = isa;
    backend_ = make_cpu_backend(cpu);
    executor_ = make_model_executor(test::load_golden(golden, dtype, *backend_, groups_), *backend_, groups_, options);
  }
  const ExecutorInfo& info() const override { return executor_->info(); }
  void run(const Step& step, StepResult& result) override { executor_->run(step, result); }
  bool collect(StepResult& result) override { return executor_->collect(result); }

 private:
  Groups groups_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Executor> executor_;
};

class Wire {
 public:
  void push(std::span<const std::byte> bytes) {
    std::lock_guard lock(mutex_);
    queue_.emplace_back(bytes.begin(), bytes.end());
    ready_.notify_one();
  }
  bool next(std::vector<std::byte>& bytes) {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return !queue_.empty(); });
    bytes = std::move(queue_.front());
    queue_.pop_front();
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::vector<std::byte>> queue_;
};

struct Setup {
  int64_t token_budget = 64;
  bool prefix_cache = true;
  int64_t cache_tokens = 4096;
  int64_t max_seqs = 8;
  int64_t max_context = 256;
  int tp = 1, pp = 1;
  std::string dtype = "auto";
};

struct Outcome {
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  EngineStats stats;
};

inline ExecutorOptions executor_options(const Setup& setup) {
  ExecutorOptions executor;
  executor.max_seqs = setup.max_seqs;
  executor.max_rows = setup.token_budget;
  executor.max_context = setup.max_context;
  executor.block_size = 16;
  return executor;
}

inline EngineOptions engine_options(const Setup& setup) {
  EngineOptions options;
  options.token_budget = setup.token_budget;
  options.prefix_cache = setup.prefix_cache;
  return options;
}

// An engine of one rank, to be asked one thing after another; its cache is as large as its sequences can use.
struct OneRank {
  OneRank(const Golden& golden, const Setup& setup)
      : engine(engine_options(setup), std::make_unique<Rank>(golden, solo_groups(), executor_options(setup)),
               *tokenizer) {}
  std::unique_ptr<Tokenizer> tokenizer = Tokenizer::bytes();
  Engine engine;
};

inline Outcome run(const Golden& golden, const std::vector<GenerateRequest>& requests, const Setup& setup) {
  ExecutorOptions executor = executor_options(setup);
  {  // bytes of one token on one rank, from a model that is thrown away
    Groups solo = solo_groups();
    CpuOptions cpu;
    cpu.threads = 1;
    const auto backend = make_cpu_backend(cpu);
    const auto model = test::load_golden(golden, setup.dtype, *backend, solo);
    size_t bytes = 0;
    for (const CacheGroupSpec& g : model->cache_groups()) bytes += g.bytes_per_token;
    executor.cache_bytes = bytes * static_cast<size_t>(setup.cache_tokens) / static_cast<size_t>(setup.pp);
  }
  const auto tokenizer = Tokenizer::bytes();
  executor.grammars = std::make_shared<GrammarCompiler>(*tokenizer, 256, std::vector<int32_t>{2});
  std::vector<Groups> groups = make_thread_groups(setup.tp, setup.pp);
  std::vector<Wire> wires(groups.size());
  std::vector<std::thread> workers;
  for (size_t r = 1; r < groups.size(); ++r)
    workers.emplace_back([&, r] {
      Rank rank(golden, std::move(groups[r]), executor, setup.dtype);
      run_worker(rank, [&](std::vector<std::byte>& bytes) { return wires[r].next(bytes); });
    });
  Outcome outcome;
  {
    EngineOptions options = engine_options(setup);
    if (groups.size() > 1)
      options.broadcast = [&](std::span<const std::byte> bytes) {
        for (size_t r = 1; r < wires.size(); ++r) wires[r].push(bytes);
      };
    const Engine::ExecutorFactory factory = [&] {
      return std::make_unique<Rank>(golden, std::move(groups[0]), executor, setup.dtype);
    };
    Engine engine(options, factory, *tokenizer);
    for (const GenerateRequest& request : requests) {
      outcome.sinks.push_back(std::make_shared<RecordingSink>());
      engine.submit(request, outcome.sinks.back());
    }
    for (auto& sink : outcome.sinks) REQUIRE(sink->wait_end(120));
    for (int i = 0; i < 200 && engine.stats().blocks_used > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    outcome.stats = engine.stats();
  }
  for (auto& worker : workers) worker.join();
  for (auto& sink : outcome.sinks) {
    CHECK(sink->error.empty());
    CHECK(sink->broken == 0);
  }
  CHECK(outcome.stats.blocks_used == 0);
  return outcome;
}

inline std::vector<int32_t> tokens_of(RecordingSink& sink, int32_t choice = 0) {
  std::vector<int32_t> ids;
  for (const auto& piece : sink.choices[choice].pieces) ids.push_back(piece.token.id);
  return ids;
}

// The reference's continuation from several places on: each must end in the same tokens.
const int32_t kFrom[] = {0, 0, 5, 23, 40, 63};

inline std::vector<GenerateRequest> greedy_requests(const Golden& golden) {
  std::vector<GenerateRequest> requests;
  for (const int32_t from : kFrom) {
    GenerateRequest r;
    r.prompt = golden.prompt;
    r.prompt.insert(r.prompt.end(), golden.greedy.begin(), golden.greedy.begin() + from);
    r.max_new_tokens = 64 - from;
    r.ignore_eos = r.want_tokens = true;
    requests.push_back(r);
  }
  return requests;
}

inline void check_greedy(const Golden& golden, const Outcome& outcome) {
  for (size_t i = 0; i < outcome.sinks.size(); ++i)
    CHECK(tokens_of(*outcome.sinks[i]) == std::vector<int32_t>(golden.greedy.begin() + kFrom[i], golden.greedy.end()));
}

inline std::vector<GenerateRequest> sampled_requests(const Golden& golden) {
  std::vector<GenerateRequest> requests;
  const std::vector<int32_t>& prompt = golden.encoder.empty() ? golden.prompt : golden.encoder;
  for (int32_t i = 0; i < 6; ++i) {
    GenerateRequest r;
    r.prompt.assign(prompt.begin(), prompt.begin() + 3 + i * 4);
    r.max_new_tokens = 20 + 5 * i;
    r.ignore_eos = r.want_tokens = r.has_seed = true;
    r.sampling.greedy = false;
    r.sampling.temperature = 0.8f + 0.1f * static_cast<float>(i);
    r.sampling.seed = 1000 + static_cast<uint64_t>(i % 3);
    r.sampling.n_logprobs = 2;
    if (i % 2 == 1) r.sampling.top_k = 20;
    if (i == 2) r.sampling.repetition_penalty = 1.3f;
    if (i == 3) r.sampling.frequency_penalty = 0.5f;
    if (i == 4) r.n = r.best_of = 3;
    requests.push_back(r);
  }
  return requests;
}

}  // namespace sluice
