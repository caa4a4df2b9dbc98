// SPDX-License-Identifier: Apache-2.0
// The engine's three threads and the queues between them. Leader: owns the scheduler, decides Steps. Executor thread:
// runs them; it alone touches device and communicator. Output: text, stop strings, sinks. Each has one inbox; all wait
// on condition variables, and no lock is held across a step, a send or a sink.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/choice.h"
#include "engine/engine.h"
#include "schedule/scheduler.h"

namespace sluice {

// A vector behind a lock; receivers swap it out whole, so that capacity circulates and nothing is allocated.
template <class T>
class Inbox {
 public:
  static constexpr size_t kRoom = 256;  // beyond it a push may allocate
  Inbox() { items_.reserve(kRoom); }

  void push(T item) {
    {
      std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
    }
    ready_.notify_one();
  }
  // `out` is empty before; waits until there is something unless `wait` is false.
  void take(std::vector<T>& out, bool wait = true) {
    std::unique_lock lock(mutex_);
    if (wait) ready_.wait(lock, [&] { return !items_.empty(); });
    out.swap(items_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<T> items_;
};

// One step's results on their way from the executor over the leader to the output thread, with what the leader adds.
struct Batch {
  struct Start {
    Choice* choice;
    int32_t cached_tokens;
    double when;
  };
  StepResult result;
  std::vector<Start> starts;                     // first
  std::vector<TokenEvent> events;                // then these; tag is a Choice*
  std::vector<BeamAnswer> answers;               // then these, likewise
  std::vector<std::shared_ptr<Request>> lost;    // get on_error
  std::vector<std::shared_ptr<Request>> closed;  // nothing refers to them any more
  bool last = false;                             // the output thread ends
};

struct LeaderMessage {
  enum class Kind : uint8_t { kSubmit, kCancel, kFinishChoice, kAbort, kResult, kOutputReady, kStop };
  Kind kind;
  std::shared_ptr<Request> request;  // kSubmit, kCancel, kFinishChoice
  int32_t choice = 0;                // kFinishChoice
  Batch* batch = nullptr;            // kResult, or none known yet
  Step* step = nullptr;              // kResult: has run, may be filled again; or none
};

class Engine::State {
 public:
  State(EngineOptions options, ExecutorFactory factory, const Tokenizer& tokenizer);
  ~State();

  uint64_t submit(GenerateRequest request, std::shared_ptr<Sink> sink);
  void cancel(uint64_t id);
  bool drain(double deadline);
  EngineStats stats() const;
  EngineMetrics metrics() const;

  const EngineOptions options;
  const Tokenizer& tokenizer;
  ExecutorInfo info;

 private:
  void make_scheduler();
  void check_beams(const GenerateRequest& ask) const;
  bool close_door(const Request& request);  // true for the one caller that ends the request

  void executor_loop(const ExecutorFactory& factory, void* started);
  void leader_loop();
  void output_loop();

  // Leader thread.
  void handle(LeaderMessage& message);
  void start(const std::shared_ptr<Request>& request);
  void choice_ended(Request& request);
  void cancel_all(Request& request);
  void complete(Batch* batch);
  void launch_steps();
  void publish(uint64_t generated = 0);
  void forward_notes();
  void forward(Batch* batch);

  // Output thread.
  void deliver(Batch& batch);
  void deliver_answer(const BeamAnswer& answer);
  void deliver_token(Choice& choice, const SampledToken& sampled, SequenceEnd end);
  void deliver_prompt(Request& request);
  void emit(Choice& choice, const Advance& how);
  void emit_best(Request& request);
  void fill_token(TokenInfo& info, const SampledToken& sampled, int32_t n_top) const;
  void finish_request(Request& request);
  void lose(Request& request);

  void stock_batches();
  Batch* take_batch();
  void give_batch(Batch* batch);

  std::unique_ptr<Scheduler> scheduler_;
  uint64_t seed_;

  Inbox<LeaderMessage> to_leader_;
  Inbox<Step*> to_executor_;
  Inbox<Batch*> to_output_;
  // Batches the output thread has not finished. The leader launches nothing while there are too many.
  static constexpr int kMaxBacklog = 16;
  std::atomic<int> backlog_{0};

  std::mutex pool_mutex_;
  std::vector<std::unique_ptr<Batch>> batches_;
  std::vector<Batch*> free_batches_;

  mutable std::mutex door_mutex_;                                    // the fields below
  std::condition_variable door_;                                     // open_ fell to 0
  std::unordered_map<uint64_t, std::shared_ptr<Request>> requests_;  // not ended
  uint64_t last_id_ = 0;
  int64_t open_ = 0;  // not ended, or ended with the sink's last call under way
  bool draining_ = false;

  mutable std::mutex stats_mutex_;
  EngineStats stats_;      // what the leader counts is copied here once per step
  EngineMetrics metrics_;  // by the output thread

  // Leader thread.
  std::vector<std::shared_ptr<Request>> live_;  // the scheduler knows them
  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<Step*> free_steps_;
  std::vector<std::byte> wire_;
  std::vector<Batch::Start> starts_;  // go out with the next batch
  Batch* notes_ = nullptr;            // lost and closed requests
  uint64_t last_step_ = 0;
  uint64_t first_allocations_ = 0;
  bool stopping_ = false;

  // Output thread.
  TokenInfo token_;

  std::thread executor_, leader_, output_;
};

}  // namespace sluice
