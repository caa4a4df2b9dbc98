// SPDX-License-Identifier: Apache-2.0
// The leader thread: admits, schedules, broadcasts, and hands results on. In steady state it allocates nothing.
#include <pthread.h>

#include "base/clock.h"
#include "base/error.h"
#include "engine/state.h"

namespace sluice {

void Engine::State::leader_loop() {
  pthread_setname_np(pthread_self(), "leader");
  std::vector<LeaderMessage> messages;
  messages.reserve(Inbox<LeaderMessage>::kRoom);
  if (options.count_allocations) first_allocations_ = options.count_allocations();
  while (!stopping_) {
    to_leader_.take(messages);
    for (LeaderMessage& message : messages) handle(message);
    messages.clear();
    try {
      if (!stopping_) launch_steps();
    } catch (const std::exception& error) {
      fatal(std::string("control plane: ") + error.what());
    }
    forward_notes();
    publish();
  }
  for (const auto& request : live_) {
    if (!notes_) notes_ = take_batch();
    notes_->lost.push_back(request);
  }
  forward_notes();
  steps_.push_back(std::make_unique<Step>());
  Step* step = steps_.back().get();
  step->id = last_step_ + 1;
  step->shutdown = true;
  if (options.broadcast) {
    wire_.clear();
    serialise(*step, wire_);
    options.broadcast(wire_);
  }
  to_executor_.push(step);
}

void Engine::State::handle(LeaderMessage& message) {
  using Kind = LeaderMessage::Kind;
  switch (message.kind) {
    case Kind::kSubmit:
      start(message.request);
      break;
    case Kind::kCancel:
      cancel_all(*message.request);
      break;
    case Kind::kFinishChoice: {
      Choice& choice = *message.request->choices[static_cast<size_t>(message.choice)];
      if (choice.ended) break;
      choice.ended = true;
      scheduler_->finish(message.request->first_sequence + message.choice);
      choice_ended(*message.request);
      break;
    }
    case Kind::kAbort:
      while (!live_.empty()) {
        const std::shared_ptr<Request> request = live_.back();
        if (!notes_) notes_ = take_batch();
        notes_->lost.push_back(request);
        cancel_all(*request);
      }
      break;
    case Kind::kResult:
      if (message.step) free_steps_.push_back(message.step);
      if (message.batch) complete(message.batch);
      break;
    case Kind::kOutputReady:  // launch_steps() goes on
      break;
    case Kind::kStop:
      stopping_ = true;
      break;
  }
}

void Engine::State::start(const std::shared_ptr<Request>& request) {
  std::vector<uint64_t> tags;
  for (const auto& choice : request->choices) tags.push_back(reinterpret_cast<uint64_t>(choice.get()));
  request->first_sequence = scheduler_->add(std::move(request->spec), tags);
  request->place = live_.size();
  live_.push_back(request);
  std::lock_guard lock(stats_mutex_);
  ++stats_.requests;
  stats_.prompt_tokens += request->ask.prompt.size();
}

void Engine::State::cancel_all(Request& request) {
  if (request.live == 0) return;
  for (auto& choice : request.choices) {
    if (choice->ended) continue;
    choice->ended = true;
    scheduler_->finish(request.first_sequence + choice->number);
    --request.live;
  }
  ++request.live;
  choice_ended(request);
}

// With the last choice the output thread may forget the request: no event will name it.
void Engine::State::choice_ended(Request& request) {
  if (--request.live > 0) return;
  if (!notes_) notes_ = take_batch();
  notes_->closed.push_back(std::move(live_[request.place]));
  if (request.place + 1 < live_.size()) {
    live_[request.place] = std::move(live_.back());
    live_[request.place]->place = request.place;
  }
  live_.pop_back();
}

void Engine::State::complete(Batch* batch) {
  batch->starts.swap(starts_);
  scheduler_->complete(batch->result, batch->events);
  uint64_t generated = 0;
  for (const TokenEvent& event : batch->events) {
    generated += event.score ? 0 : 1;
    if (event.end == SequenceEnd::kNone) continue;
    Choice& choice = *reinterpret_cast<Choice*>(event.tag);
    choice.ended = true;
    choice_ended(choice.request);
  }
  batch->answers.swap(scheduler_->beam_answers());
  for (const BeamAnswer& answer : batch->answers) {
    generated += answer.tokens.size();
    Choice& choice = *reinterpret_cast<Choice*>(answer.tag);
    choice.ended = true;
    choice_ended(choice.request);
  }
  publish(generated);  // first: who has an answer finds its request counted no more
  forward(batch);
}

void Engine::State::forward(Batch* batch) {
  backlog_.fetch_add(1);
  to_output_.push(batch);
}

void Engine::State::launch_steps() {
  while (scheduler_->can_schedule() && backlog_.load() < kMaxBacklog) {
    if (free_steps_.empty()) {
      steps_.push_back(std::make_unique<Step>());
      free_steps_.push_back(steps_.back().get());
    }
    Step* step = free_steps_.back();
    if (!scheduler_->schedule(*step)) return;
    free_steps_.pop_back();
    last_step_ = step->id;
    if (!scheduler_->started().empty()) {
      const double now = monotonic_seconds();
      for (const StartEvent& s : scheduler_->started())
        starts_.push_back({reinterpret_cast<Choice*>(s.tag), s.cached_tokens, now});
    }
    if (options.broadcast) {
      wire_.clear();
      serialise(*step, wire_);
      options.broadcast(wire_);
    }
    to_executor_.push(step);
  }
}

// After the events of the same round, so that a closed request is named by nothing behind it.
void Engine::State::forward_notes() {
  if (!notes_) return;
  notes_->starts.swap(starts_);
  forward(notes_);
  notes_ = nullptr;
}

void Engine::State::publish(uint64_t generated) {
  const SchedulerCounts counts = scheduler_->counts();
  std::lock_guard lock(stats_mutex_);
  stats_.generated_tokens += generated;
  stats_.steps = last_step_;
  stats_.preemptions = counts.preemptions;
  stats_.running = counts.running;
  stats_.waiting = counts.waiting;
  stats_.blocks = counts.blocks;
  stats_.blocks_used = counts.blocks_used;
  if (options.count_allocations) stats_.leader_allocations = options.count_allocations() - first_allocations_;
}

}  // namespace sluice
