// SPDX-License-Identifier: Apache-2.0
// The output thread: tokens become text, text ends at stop strings, sinks hear of it.
#include <pthread.h>

#include <algorithm>
#include <limits>

#include "base/clock.h"
#include "engine/state.h"

namespace sluice {

void Engine::State::output_loop() {
  pthread_setname_np(pthread_self(), "output");
  std::vector<Batch*> batches;
  batches.reserve(Inbox<Batch*>::kRoom);
  for (bool last = false; !last;) {
    to_output_.take(batches);
    for (Batch* batch : batches) {
      deliver(*batch);
      last = last || batch->last;
      give_batch(batch);
      if (backlog_.fetch_sub(1) == kMaxBacklog) to_leader_.push({LeaderMessage::Kind::kOutputReady, {}});
    }
    batches.clear();
  }
}

void Engine::State::deliver(Batch& batch) {
  for (const Batch::Start& start : batch.starts) {
    Request& request = start.choice->request;
    if (request.started != 0) continue;
    request.started = start.when;
    request.usage.cached_tokens = start.cached_tokens;
    std::lock_guard lock(stats_mutex_);
    stats_.cached_tokens += static_cast<uint64_t>(start.cached_tokens);
  }
  const double now = batch.events.empty() ? 0 : monotonic_seconds();
  for (const TokenEvent& event : batch.events) {
    Choice& choice = *reinterpret_cast<Choice*>(event.tag);
    Request& request = choice.request;
    if (choice.finished || request.silent.load(std::memory_order_relaxed)) continue;
    const SampledToken& sampled = batch.result.tokens[static_cast<size_t>(event.sample)];
    if (event.score) {
      request.prompt.resize(request.ask.prompt.size());
      fill_token(request.prompt[static_cast<size_t>(event.position)], sampled,
                 std::min(sampled.n_top, request.ask.prompt_logprobs));
      continue;
    }
    if (request.first_token == 0) request.first_token = now;
    request.last_token = now;
    deliver_token(choice, sampled, event.end);
  }
  for (const BeamAnswer& answer : batch.answers) deliver_answer(answer);
  for (const auto& request : batch.lost) lose(*request);
  for (const auto& request : batch.closed) request->sink.reset();
}

// An answer that a search has found, token by token; a stop string cuts it here.
void Engine::State::deliver_answer(const BeamAnswer& answer) {
  Choice& choice = *reinterpret_cast<Choice*>(answer.tag);
  Request& request = choice.request;
  request.last_token = monotonic_seconds();
  if (request.first_token == 0) request.first_token = request.last_token;
  for (size_t i = 0; i < answer.tokens.size(); ++i) {
    if (choice.finished || request.silent.load(std::memory_order_relaxed)) return;
    SampledToken token;
    token.token = answer.tokens[i];
    token.logprob = answer.log_probs[i];
    deliver_token(choice, token, i + 1 == answer.tokens.size() ? answer.end : SequenceEnd::kNone);
  }
}

void Engine::State::deliver_token(Choice& choice, const SampledToken& sampled, SequenceEnd end) {
  Request& request = choice.request;
  if (!request.prompt_sent) deliver_prompt(request);
  ++choice.n_tokens;
  ++request.usage.generated_tokens;
  choice.sum_logprobs += static_cast<double>(sampled.logprob);
  const Advance how = advance(choice, sampled.token, end);
  if (request.ask.want_tokens) fill_token(token_, sampled, std::min(sampled.n_top, request.ask.sampling.n_logprobs));
  if (request.ask.best_of > request.ask.n) {
    choice.kept.push_back({choice.n_tokens, choice.text, choice.reasoning,
                           request.ask.want_tokens ? token_ : TokenInfo{}, how.finish, std::string(how.stop_text),
                           how.stop_id});
  } else {
    emit(choice, how);
  }
  if (how.finish == FinishReason::kNone) return;
  choice.finished = true;
  if (end == SequenceEnd::kNone)
    to_leader_.push({LeaderMessage::Kind::kFinishChoice, request.shared_from_this(), choice.number});
  if (--request.unfinished == 0) finish_request(request);
}

void Engine::State::deliver_prompt(Request& request) {
  request.prompt_sent = true;
  if (request.ask.prompt_logprobs < 0) return;
  request.prompt.resize(request.ask.prompt.size());
  SampledToken first;
  first.token = request.ask.prompt[0];
  first.logprob = std::numeric_limits<float>::quiet_NaN();
  fill_token(request.prompt[0], first, 0);
  request.sink->on_prompt(request.prompt);
}

void Engine::State::emit(Choice& choice, const Advance& how) {
  Delta delta;
  delta.choice = choice.number;
  delta.index = choice.n_tokens;
  delta.text = choice.text;
  delta.reasoning = choice.reasoning;
  delta.token = choice.request.ask.want_tokens ? &token_ : nullptr;
  delta.finish = how.finish;
  delta.stop_text = how.stop_text;
  delta.stop_id = how.stop_id;
  choice.request.sink->on_delta(delta);
}

// The n choices with the highest mean log probability, best first; on ties the earlier one.
void Engine::State::emit_best(Request& request) {
  std::vector<Choice*> order;
  for (const auto& choice : request.choices) order.push_back(choice.get());
  std::ranges::stable_sort(order, std::ranges::greater{},
                           [](const Choice* c) { return c->sum_logprobs / std::max(1, c->n_tokens); });
  for (int32_t rank = 0; rank < request.ask.n; ++rank)
    for (const KeptDelta& kept : order[static_cast<size_t>(rank)]->kept) {
      if (request.silent.load(std::memory_order_relaxed)) return;
      request.sink->on_delta({rank, kept.index, kept.text, kept.reasoning,
                              request.ask.want_tokens ? &kept.token : nullptr, kept.finish, kept.stop_text,
                              kept.stop_id});
    }
}

void Engine::State::fill_token(TokenInfo& info_out, const SampledToken& sampled, int32_t n_top) const {
  const auto fill = [&](TokenInfo& t, int32_t id, float logprob) {
    t.id = id;
    t.logprob = logprob;
    t.special = tokenizer.is_special(id);
    t.text = tokenizer.decode({&id, 1}, false);
  };
  fill(info_out, sampled.token, sampled.logprob);
  info_out.rank = sampled.rank;
  info_out.top.resize(static_cast<size_t>(std::max(0, n_top)));
  for (size_t i = 0; i < info_out.top.size(); ++i) fill(info_out.top[i], sampled.top_ids[i], sampled.top_logprobs[i]);
}

void Engine::State::finish_request(Request& request) {
  if (request.ask.best_of > request.ask.n) emit_best(request);
  if (!close_door(request)) return;  // cancelled meanwhile
  request.silent.store(true);
  const double now = monotonic_seconds();
  Usage& usage = request.usage;
  usage.queue_seconds = request.started - request.submitted;
  usage.prefill_seconds = request.first_token - request.started;
  usage.decode_seconds = request.last_token - request.first_token;
  {
    std::lock_guard lock(stats_mutex_);
    ++stats_.finished;
    metrics_.queue_seconds.observe(usage.queue_seconds);
    metrics_.first_token_seconds.observe(request.first_token - request.submitted);
    metrics_.inference_seconds.observe(now - request.started);
    metrics_.request_seconds.observe(now - request.submitted);
    metrics_.prompt_tokens.observe(usage.prompt_tokens);
    metrics_.generated_tokens.observe(usage.generated_tokens);
    metrics_.max_new_tokens.observe(request.ask.max_new_tokens);
    int32_t longest = 0;
    for (const auto& choice : request.choices) longest = std::max(longest, choice->n_tokens);
    if (longest > 1) metrics_.token_seconds.observe(usage.decode_seconds / (longest - 1));
  }
  request.sink->on_done(usage);
  std::lock_guard lock(door_mutex_);
  if (--open_ == 0) door_.notify_all();
}

void Engine::State::lose(Request& request) {
  if (!close_door(request)) return;
  request.silent.store(true);
  {
    std::lock_guard lock(stats_mutex_);
    ++stats_.failed;
  }
  request.sink->on_error("the server is shutting down; the answer is not complete");
  std::lock_guard lock(door_mutex_);
  if (--open_ == 0) door_.notify_all();
}

}  // namespace sluice
