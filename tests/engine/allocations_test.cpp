// SPDX-License-Identifier: Apache-2.0
// Counts this binary's heap allocations by thread.
#include <doctest/doctest.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>

#include "engine/engine.h"

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
namespace {
thread_local uint64_t n_allocations = 0;
}

void* operator new(std::size_t size) {
  ++n_allocations;
  if (void* p = std::malloc(size > 0 ? size : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace sluice {
namespace {

// Takes the engine's counters at its 1000th and 2000th token.
class CountingSink : public Sink {
 public:
  explicit CountingSink(const Engine& engine) : engine_(engine) {}
  void on_delta(const Delta& d) override {
    if (d.index == 1000) first = engine_.stats();
    if (d.index == 2000) second = engine_.stats();
  }
  void on_done(const Usage&) override { finish(); }
  void on_error(std::string_view) override { finish(); }
  void wait() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return done_; });
  }
  EngineStats first, second;

 private:
  void finish() {
    std::lock_guard lock(mutex_);
    done_ = true;
    ready_.notify_all();
  }
  const Engine& engine_;
  std::mutex mutex_;
  std::condition_variable ready_;
  bool done_ = false;
};

}  // namespace

TEST_CASE("a thousand steady decode steps allocate nothing on the leader's loop") {
  const auto tokenizer = Tokenizer::bytes();
  for (const int64_t n : {1, 64}) {
    CAPTURE(n);
    ExecutorOptions executor_options;
    executor_options.max_seqs = 64;
    executor_options.max_rows = 512;
    executor_options.max_context = 4096;
    EngineOptions options;
    options.count_allocations = [] { return n_allocations; };
    size_t bytes = 0;
    options.broadcast = [&](std::span<const std::byte> wire) { bytes += wire.size(); };
    Engine engine(options, make_null_executor(executor_options, 258, 'x'), *tokenizer);
    std::vector<std::shared_ptr<CountingSink>> sinks;
    // A queue grows once where its reader has never been that late before: that is not the steady state yet.
    for (int round = 0; round < 3; ++round) {
      sinks.clear();
      for (int64_t i = 0; i < n; ++i) {
        GenerateRequest r;
        r.prompt.assign(static_cast<size_t>(20 + i), 'p');
        r.max_new_tokens = 2500;
        sinks.push_back(std::make_shared<CountingSink>(engine));
        engine.submit(r, sinks.back());
      }
      for (auto& s : sinks) s->wait();
      if (sinks.back()->second.leader_allocations == sinks.back()->first.leader_allocations) break;
    }
    const EngineStats &a = sinks.back()->first, &b = sinks.back()->second;
    CHECK(b.steps - a.steps >= 900);
    CHECK(a.leader_allocations > 0);  // the counter counts
    CHECK(b.leader_allocations - a.leader_allocations == 0);
    CHECK(bytes > 0);
    MESSAGE(n << " sequences: "
              << 1e6 * (b.leader_seconds - a.leader_seconds) /
                     static_cast<double>(b.generated_tokens - a.generated_tokens)
              << " us of leader time per token");
  }
}

}  // namespace sluice
#endif
