// SPDX-License-Identifier: Apache-2.0
// The engine of rank 0: admission, scheduling, the leader loop, detokenising. Thread-safe where it says so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "engine/executor.h"
#include "engine/metrics.h"
#include "engine/request.h"
#include "text/tokenizer.h"

namespace sluice {

struct EngineOptions {
  int64_t max_waiting =
      128;  // requests admitted but not yet finished (TGI MAX_CONCURRENT_REQUESTS); beyond: RequestError kOverloaded
  int64_t token_budget = 512;  // rows of one step
  int64_t max_batch = 0;       // sequences running at once; 0: the executor's slots
  bool prefix_cache = true;
  uint64_t job_seed = 0;  // seeds drawn for requests without one derive from it; 0: from the system
  // Ships a serialised step to the other ranks before this rank runs it. Empty for a single rank.
  std::function<void(std::span<const std::byte>)> broadcast;
  // Heap allocations of the calling thread so far, where the binary counts them; fills EngineStats::leader_allocations.
  uint64_t (*count_allocations)() = nullptr;
};

struct EngineStats {  // monotonic counters unless said
  uint64_t requests = 0, finished = 0, cancelled = 0, failed = 0, preemptions = 0, steps = 0;
  uint64_t prompt_tokens = 0, generated_tokens = 0, cached_tokens = 0;
  int64_t running = 0, waiting = 0;     // now
  int64_t blocks = 0, blocks_used = 0;  // now; cached but unreferenced blocks count as free
  double leader_seconds = 0;            // CPU time of the leader thread
  uint64_t leader_allocations = 0;      // heap allocations on the leader's loop since start, when counting is built in
};

class Engine {
 public:
  using ExecutorFactory = std::function<std::unique_ptr<Executor>()>;
  // The executor is made, driven and destroyed by the engine's executor thread, and with it whatever it owns (MPI,
  // backend, model). Returns when it is ready; rethrows what the factory throws.
  Engine(EngineOptions options, ExecutorFactory factory, const Tokenizer& tokenizer);
  Engine(EngineOptions options, std::unique_ptr<Executor> executor, const Tokenizer& tokenizer);
  ~Engine();  // stops at once; requests in flight get on_error

  // Thread-safe. Checks the request against the limits (RequestError), queues it. The sink lives until on_done or
  // on_error.
  uint64_t submit(GenerateRequest request, std::shared_ptr<Sink> sink);
  // Thread-safe. The sink hears nothing more once this returns... except a call already under way; blocks are freed by
  // the next step.
  void cancel(uint64_t id);
  // Thread-safe. No new requests are admitted; returns when all are finished or the deadline (seconds) passed: then the
  // rest get on_error. Returns true when nothing was lost.
  bool drain(double deadline);

  EngineStats stats() const;           // thread-safe
  EngineMetrics metrics() const;       // thread-safe
  const ExecutorInfo& info() const;    // constant
  const Tokenizer& tokenizer() const;  // constant, const calls are thread-safe

 private:
  class State;
  std::unique_ptr<State> state_;
};

// Ranks other than 0: replays steps from `next` (false: the leader is gone) until one says shutdown.
void run_worker(Executor& executor, const std::function<bool(std::vector<std::byte>&)>& next);

}  // namespace sluice
