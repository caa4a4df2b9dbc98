// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <fmt/format.h>
#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <exception>
#include <random>

#include "base/clock.h"
#include "base/error.h"
#include "engine/grammar_compiler.h"
#include "engine/grammar_fields.h"
#include "engine/sequence_spec.h"
#include "engine/state.h"

namespace sluice {
namespace {

uint64_t mix(uint64_t x) {  // splitmix64 (Steele et al., OOPSLA 2014)
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

struct Started {
  std::mutex mutex;
  std::condition_variable ready;
  bool done = false;
  ExecutorInfo info;
  std::exception_ptr error;
};

}  // namespace

Engine::State::State(EngineOptions options_in, ExecutorFactory factory, const Tokenizer& tokenizer_in)
    : options(std::move(options_in)), tokenizer(tokenizer_in), seed_(options.job_seed) {
  if (seed_ == 0) {
    std::random_device system;
    seed_ = (static_cast<uint64_t>(system()) << 32) | system();
  }
  Started started;
  executor_ = std::thread([this, &factory, &started] { executor_loop(factory, &started); });
  {
    std::unique_lock lock(started.mutex);
    started.ready.wait(lock, [&] { return started.done; });
  }
  try {
    if (started.error) std::rethrow_exception(started.error);
    info = started.info;
    make_scheduler();
    stock_batches();
  } catch (...) {
    to_executor_.push(nullptr);
    executor_.join();
    throw;
  }
  leader_ = std::thread([this] { leader_loop(); });
  output_ = std::thread([this] { output_loop(); });
}

Engine::State::~State() {
  to_leader_.push({LeaderMessage::Kind::kStop, {}});
  leader_.join();
  executor_.join();
  Batch* last = take_batch();
  last->last = true;
  forward(last);
  output_.join();
}

void Engine::State::make_scheduler() {
  const RunLimits& limits = info.limits;
  if (options.token_budget > limits.max_rows)
    throw Error(
        fmt::format("token budget {} exceeds the {} rows that the executor holds; lower --max-batch-prefill-tokens",
                    options.token_budget, limits.max_rows));
  if (options.max_batch > info.slots)
    throw Error(fmt::format("batch size {} exceeds the {} sequences that the executor holds; lower --max-batch",
                            options.max_batch, info.slots));
  if (options.token_budget < 1 || options.max_waiting < 1 || options.max_batch < 0)
    throw Error("token budget and queue length must be at least 1, batch size not negative");
  SchedulerOptions s;
  check(limits.blocks.size() == info.cache_groups.size(), "the executor has limits for another number of cache groups");
  for (size_t g = 0; g < limits.blocks.size(); ++g) {
    const CacheGroupSpec& group = info.cache_groups[g];
    s.groups.push_back({limits.blocks[g], group.growth == CacheGroupSpec::Growth::kWindow ? group.window : 0,
                        group.growth == CacheGroupSpec::Growth::kFixed});
  }
  s.block_size = limits.block_size;
  s.token_budget = options.token_budget;
  s.enough_rows = info.enough_rows;
  s.max_seqs = limits.max_seqs;
  s.max_samples = limits.max_logits;
  s.max_running = options.max_batch > 0 ? options.max_batch : info.slots;
  s.stages = info.stages;
  s.prefix_cache = options.prefix_cache;
  s.encode_budget = limits.max_encoder;
  s.varies_beyond = info.model.varies_beyond;
  s.recomputes = info.model.recomputes;
  scheduler_ = std::make_unique<Scheduler>(s);
  info.limits.max_context = std::min(limits.max_context, scheduler_->max_tokens());
  info.limits.max_encoder = scheduler_->max_encoder();
}

void Engine::State::executor_loop(const ExecutorFactory& factory, void* started_in) {
  pthread_setname_np(pthread_self(), "executor");
  std::unique_ptr<Executor> executor;
  {
    auto& started = *static_cast<Started*>(started_in);
    try {
      executor = factory();
      check(executor != nullptr, "the executor's factory made nothing");
      started.info = executor->info();
    } catch (...) {
      started.error = std::current_exception();
    }
    // Notified under the lock: the other side destroys `started` once it has seen `done`.
    std::lock_guard lock(started.mutex);
    started.done = true;
    started.ready.notify_one();
  }
  if (!executor) return;
  std::vector<Step*> queue;
  queue.reserve(Inbox<Step*>::kRoom);
  Batch* batch = take_batch();
  batch->result.id = 0;
  const auto report = [&](Step* step) {
    const bool known = batch->result.id != 0;
    to_leader_.push({LeaderMessage::Kind::kResult, {}, 0, known ? batch : nullptr, step});
    if (known) batch = take_batch();
    batch->result.id = 0;
    return known ? 1 : 0;
  };
  int64_t outstanding = 0;  // steps run whose results are not known
  try {
    for (;;) {
      to_executor_.take(queue, outstanding == 0);
      if (queue.empty()) {
        check(executor->collect(batch->result), "a step's result is gone");
        outstanding -= report(nullptr);
        continue;
      }
      for (Step* step : queue) {
        if (step == nullptr) return give_batch(batch);  // construction failed elsewhere
        executor->run(*step, batch->result);
        if (step->shutdown) return give_batch(batch);
        outstanding += 1 - report(step);
      }
      queue.clear();
    }
  } catch (const std::exception& error) {  // the other ranks wait: nothing can be saved
    fatal(std::string("executor: ") + error.what());
  }
}

uint64_t Engine::State::submit(GenerateRequest ask, std::shared_ptr<Sink> sink) {
  check(sink != nullptr, "a request without a sink");
  if (ask.best_of == 1) ask.best_of = ask.n;
  validate(ask, info.model, info.limits.max_context, info.limits.max_encoder);
  if (!info.full_sampler) refuse_rare_processors(ask);
  validate_beams(ask);
  if (ask.beams.width > 1) check_beams(ask);
  if (ask.grammar.kind != GrammarSpec::Kind::kNone) {
    if (!info.grammars)
      throw RequestError(RequestError::Kind::kValidation,
                         "constrained output is not supported with this model and backend; leave it out",
                         kGrammarParam);
    info.grammars->compile(ask.grammar);
  }
  auto request = std::make_shared<Request>();
  request->ask = std::move(ask);
  request->sink = std::move(sink);
  request->submitted = monotonic_seconds();
  GenerateRequest& r = request->ask;

  SequenceSpec& spec = request->spec;
  spec = sequence_spec(r, info.model, tokenizer);
  for (int32_t i = 0; i < r.best_of; ++i)
    request->choices.push_back(std::make_unique<Choice>(*request, i, tokenizer, spec.encoder.empty()));
  request->live = request->unfinished = r.best_of;
  request->usage.prompt_tokens = static_cast<int32_t>(r.prompt.size());

  {
    std::lock_guard lock(door_mutex_);
    if (draining_)
      throw RequestError(RequestError::Kind::kUnavailable, "the server is shutting down and takes no new requests");
    if (static_cast<int64_t>(requests_.size()) >= options.max_waiting)
      throw RequestError(
          RequestError::Kind::kOverloaded,
          fmt::format("{} requests are waiting or running, which is the limit; try again later", requests_.size()));
    request->id = ++last_id_;
    request->usage.seed = r.has_seed ? r.sampling.seed : mix(seed_ + request->id);
    spec.sampling.seed = request->usage.seed;
    requests_.emplace(request->id, request);
    ++open_;
    // Under the lock, so that a later cancel() comes later in the leader's queue too.
    to_leader_.push({LeaderMessage::Kind::kSubmit, request});
  }
  return request->id;
}

// The sizes of the scheduler are constant: any thread may ask for them.
void Engine::State::check_beams(const GenerateRequest& ask) const {
  if (!info.searches)
    throw RequestError(RequestError::Kind::kValidation,
                       "beam search is not supported on this server's device; leave it out", "use_beam_search");
  const int32_t width = ask.beams.width;
  const int64_t most = scheduler_->max_beams((ask.ignore_eos ? 0 : info.model.eos.size()) + ask.stop_ids.size());
  const auto refuse = [](const std::string& message) {
    throw RequestError(RequestError::Kind::kValidation, message, "use_beam_search");
  };
  if (width > most) refuse(fmt::format("{} beams are asked for, but {} is the limit of this server", width, most));
  const bool encodes = info.model.decoder_start >= 0;
  const auto prompt = static_cast<int64_t>(ask.prompt.size());
  const int64_t tokens = (encodes ? 1 : prompt) + ask.max_new_tokens;
  if (tokens > scheduler_->max_tokens(width) || (encodes && prompt > scheduler_->max_encoder(width)))
    refuse(fmt::format("{} beams of {} prompt and {} new tokens exceed the cache; take fewer beams or tokens", width,
                       prompt, ask.max_new_tokens));
}

bool Engine::State::close_door(const Request& request) {
  std::lock_guard lock(door_mutex_);
  return requests_.erase(request.id) == 1;
}

void Engine::State::cancel(uint64_t id) {
  std::lock_guard lock(door_mutex_);
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;  // ended by itself
  it->second->silent.store(true);
  to_leader_.push({LeaderMessage::Kind::kCancel, it->second});
  requests_.erase(it);
  if (--open_ == 0) door_.notify_all();
  std::lock_guard stats(stats_mutex_);
  ++stats_.cancelled;
}

bool Engine::State::drain(double deadline) {
  std::unique_lock lock(door_mutex_);
  draining_ = true;
  const auto empty = [&] { return open_ == 0; };
  if (door_.wait_for(lock, std::chrono::duration<double>(std::max(0.0, deadline)), empty)) return true;
  to_leader_.push({LeaderMessage::Kind::kAbort, {}});
  door_.wait(lock, empty);
  return false;
}

EngineStats Engine::State::stats() const {
  EngineStats stats;
  {
    std::lock_guard lock(stats_mutex_);
    stats = stats_;
  }
  clockid_t clock;
  timespec time{};
  if (pthread_getcpuclockid(const_cast<std::thread&>(leader_).native_handle(), &clock) == 0 &&
      clock_gettime(clock, &time) == 0)
    stats.leader_seconds = static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  return stats;
}

EngineMetrics Engine::State::metrics() const {
  std::lock_guard lock(stats_mutex_);
  return metrics_;
}

// Enough for steady state; take_batch() makes more where that is not so.
void Engine::State::stock_batches() {
  std::vector<Batch*> taken;
  for (int i = 0; i < kMaxBacklog + 8; ++i) taken.push_back(take_batch());
  for (Batch* batch : taken) {
    batch->events.reserve(static_cast<size_t>(info.slots));
    batch->result.tokens.reserve(static_cast<size_t>(info.slots));
    give_batch(batch);
  }
}

Batch* Engine::State::take_batch() {
  std::lock_guard lock(pool_mutex_);
  if (free_batches_.empty()) {
    batches_.push_back(std::make_unique<Batch>());
    free_batches_.reserve(batches_.size());
    return batches_.back().get();
  }
  Batch* batch = free_batches_.back();
  free_batches_.pop_back();
  return batch;
}

void Engine::State::give_batch(Batch* batch) {
  batch->starts.clear();
  batch->events.clear();
  batch->answers.clear();
  batch->lost.clear();
  batch->closed.clear();
  std::lock_guard lock(pool_mutex_);
  free_batches_.push_back(batch);
}

Engine::Engine(EngineOptions options, ExecutorFactory factory, const Tokenizer& tokenizer)
    : state_(std::make_unique<State>(std::move(options), std::move(factory), tokenizer)) {}

Engine::Engine(EngineOptions options, std::unique_ptr<Executor> executor, const Tokenizer& tokenizer)
    : Engine(
          std::move(options),
          [shared = std::make_shared<std::unique_ptr<Executor>>(std::move(executor))] { return std::move(*shared); },
          tokenizer) {}

Engine::~Engine() = default;

uint64_t Engine::submit(GenerateRequest request, std::shared_ptr<Sink> sink) {
  return state_->submit(std::move(request), std::move(sink));
}
void Engine::cancel(uint64_t id) { state_->cancel(id); }
bool Engine::drain(double deadline) { return state_->drain(deadline); }
EngineStats Engine::stats() const { return state_->stats(); }
EngineMetrics Engine::metrics() const { return state_->metrics(); }
const ExecutorInfo& Engine::info() const { return state_->info; }
const Tokenizer& Engine::tokenizer() const { return state_->tokenizer; }

}  // namespace sluice
