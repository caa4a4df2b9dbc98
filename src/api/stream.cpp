// SPDX-License-Identifier: Apache-2.0
#include "api/stream.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "api/metrics.h"
#include "base/clock.h"
#include "base/error.h"

namespace sluice {

struct Generation::Shared {
  struct Source {
    uint64_t id = 0;
    bool done = false;
    Usage usage;
    std::vector<TokenInfo> prompt;
  };

  std::mutex mutex;
  std::condition_variable wake;
  bool waiting = false;         // collect() sleeps on `wake`
  std::function<void()> ready;  // constant; of a stream
  bool gone = false;
  bool failed = false;
  std::string failure;
  double first_output = 0;  // monotonic seconds, 0 before
  size_t open = 0;          // sources not done
  std::vector<Event> queue;
  std::vector<std::unique_ptr<Source>> sources;

  // Called with the lock held, which it gives back.
  void signal(std::unique_lock<std::mutex>& lock) {
    const bool notify = waiting && (open == 0 || gone || failed);
    if (notify) waiting = false;
    lock.unlock();
    if (notify) wake.notify_one();
    if (ready) ready();
  }
};

class Generation::SourceSink final : public Sink {
 public:
  SourceSink(std::shared_ptr<Shared> shared, size_t source) : shared_(std::move(shared)), source_(source) {}

  void on_prompt(const std::vector<TokenInfo>& tokens) override {
    std::lock_guard lock(shared_->mutex);
    shared_->sources[source_]->prompt = tokens;
  }

  void on_delta(const Delta& delta) override {
    std::unique_lock lock(shared_->mutex);
    if (shared_->gone) return;
    if (shared_->first_output == 0) shared_->first_output = monotonic_seconds();
    Event& event = shared_->queue.emplace_back();
    event.source = static_cast<int32_t>(source_);
    event.choice = delta.choice;
    event.index = delta.index;
    event.finish = delta.finish;
    event.stop_id = delta.stop_id;
    event.text.assign(delta.text);
    event.reasoning.assign(delta.reasoning);
    event.stop_text.assign(delta.stop_text);
    if (delta.token != nullptr) {
      event.token = *delta.token;
      event.has_token = true;
    }
    shared_->signal(lock);
  }

  void on_done(const Usage& usage) override {
    std::unique_lock lock(shared_->mutex);
    auto& source = *shared_->sources[source_];
    source.done = true;
    source.usage = usage;
    --shared_->open;
    shared_->signal(lock);
  }

  void on_error(std::string_view message) override {
    std::unique_lock lock(shared_->mutex);
    shared_->sources[source_]->done = true;
    --shared_->open;
    shared_->failed = true;
    shared_->failure.assign(message);
    shared_->signal(lock);
  }

 private:
  std::shared_ptr<Shared> shared_;
  size_t source_;
};

Generation::Generation(const Service& service, Reply& reply, Mode mode)
    : service_(service), shared_(std::make_shared<Shared>()), account_(reply.account), started_(monotonic_seconds()) {
  if (mode == Mode::kStream) shared_->ready = reply.ready;
  if (reply.when_gone) {
    reply.when_gone([shared = shared_] {
      std::unique_lock lock(shared->mutex);
      shared->gone = true;
      shared->signal(lock);
    });
  }
}

Generation::~Generation() {
  std::vector<uint64_t> open;
  {
    std::lock_guard lock(shared_->mutex);
    shared_->gone = true;
    for (const auto& source : shared_->sources)
      if (!source->done && source->id != 0) open.push_back(source->id);
  }
  for (uint64_t id : open) service_.cancel(id);
  if (!open.empty()) service_.metrics->request_dropped();
}

void Generation::start(GenerateRequest request) {
  service_.metrics->request_started(request);
  if (account_ != nullptr) {
    std::lock_guard lock(account_->mutex);
    ++account_->requests;
    account_->prompt_tokens += static_cast<int64_t>(request.prompt.size());
    if (account_->keep_prompts) account_->prompts.push_back(request.prompt);
  }
  std::shared_ptr<Sink> sink;
  Shared::Source* source = nullptr;
  {
    std::lock_guard lock(shared_->mutex);
    sink = std::make_shared<SourceSink>(shared_, shared_->sources.size());
    source = shared_->sources.emplace_back(std::make_unique<Shared::Source>()).get();
    ++shared_->open;
  }
  try {
    source->id = service_.submit(std::move(request), std::move(sink));
  } catch (...) {
    std::lock_guard lock(shared_->mutex);
    source->done = true;
    --shared_->open;
    throw;
  }
}

Generation::Next Generation::next(std::vector<Event>& events) {
  events.clear();
  std::unique_lock lock(shared_->mutex);
  if (shared_->gone) return Next::kGone;
  // What came before a failure is still told.
  if (!shared_->queue.empty()) {
    events.swap(shared_->queue);
    return Next::kEvents;
  }
  if (shared_->failed) throw RequestError(RequestError::Kind::kGeneration, shared_->failure);
  if (shared_->open != 0) return Next::kIdle;
  lock.unlock();
  account();
  return Next::kDone;
}

bool Generation::collect(std::vector<Event>& events) {
  events.clear();
  std::unique_lock lock(shared_->mutex);
  while (!shared_->gone && !shared_->failed && shared_->open != 0) {
    shared_->waiting = true;
    shared_->wake.wait(lock);
  }
  if (shared_->gone) return false;
  if (shared_->failed) throw RequestError(RequestError::Kind::kGeneration, shared_->failure);
  events.swap(shared_->queue);
  lock.unlock();
  account();
  return true;
}

void Generation::again() const {
  if (shared_->ready) shared_->ready();
}

// Every source is done.
void Generation::account() {
  for (const auto& source : shared_->sources) {
    const Usage& usage = source->usage;
    service_.metrics->request_finished(usage, started_, shared_->first_output);
    if (account_ == nullptr) continue;
    std::lock_guard account_lock(account_->mutex);
    ++account_->finished;
    account_->cached_tokens += usage.cached_tokens;
    account_->generated_tokens += usage.generated_tokens;
    account_->queue_seconds = std::max(account_->queue_seconds, usage.queue_seconds);
    account_->prefill_seconds = std::max(account_->prefill_seconds, usage.prefill_seconds);
    account_->decode_seconds = std::max(account_->decode_seconds, usage.decode_seconds);
  }
}

const Usage& Generation::usage(size_t source) const {
  std::lock_guard lock(shared_->mutex);
  return shared_->sources.at(source)->usage;
}

bool Generation::source_done(size_t source) const {
  std::lock_guard lock(shared_->mutex);
  return shared_->sources.at(source)->done;
}

const std::vector<TokenInfo>& Generation::prompt(size_t source) const {
  std::lock_guard lock(shared_->mutex);
  return shared_->sources.at(source)->prompt;
}

size_t Generation::sources() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->sources.size();
}

std::vector<Answer> assemble(std::vector<Event>& events, int32_t source, int32_t n) {
  std::vector<Answer> answers(static_cast<size_t>(n));
  for (Event& event : events) {
    if (event.source != source || event.choice < 0 || event.choice >= n) continue;
    Answer& answer = answers[static_cast<size_t>(event.choice)];
    answer.text += event.text;
    answer.reasoning += event.reasoning;
    answer.n_tokens = event.index;
    if (event.has_token) answer.tokens.push_back(std::move(event.token));
    if (event.finish != FinishReason::kNone) {
      answer.finish = event.finish;
      answer.stop_text = std::move(event.stop_text);
      answer.stop_id = event.stop_id;
    }
  }
  return answers;
}

std::optional<Finished> run(const Service& service, Reply& reply, GenerateRequest request) {
  std::vector<GenerateRequest> one;
  one.push_back(std::move(request));
  auto all = run_all(service, reply, std::move(one));
  if (!all) return {};
  return std::move(all->front());
}

std::optional<std::vector<Finished>> run_all(const Service& service, Reply& reply,
                                             std::vector<GenerateRequest> requests) {
  const double started = monotonic_seconds();
  std::vector<int32_t> choices;
  Generation generation(service, reply, Generation::Mode::kWhole);
  for (GenerateRequest& request : requests) {
    choices.push_back(request.n);
    generation.start(std::move(request));
  }
  std::vector<Event> events;
  if (!generation.collect(events)) return {};
  std::vector<Finished> all(choices.size());
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].answers = assemble(events, static_cast<int32_t>(i), choices[i]);
    for (const Answer& answer : all[i].answers) service.metrics->finish_reason(answer.finish);
    all[i].prompt = generation.prompt(i);
    all[i].usage = generation.usage(i);
    all[i].seconds = monotonic_seconds() - started;
  }
  return all;
}

void stream(const Service& service, Reply& reply, GenerateRequest request, std::shared_ptr<StreamWriter> writer) {
  auto generation = std::make_shared<Generation>(service, reply, Generation::Mode::kStream);
  generation->start(std::move(request));
  reply.stream = [&service, generation, writer = std::move(writer),
                  events = std::vector<Event>()](std::string& out) mutable {
    try {
      const auto next = generation->drain(events, [&](const Event& event) {
        if (event.finish != FinishReason::kNone) service.metrics->finish_reason(event.finish);
        writer->event(out, event);
      });
      if (next != Generation::Next::kDone) return next == Generation::Next::kIdle;
      writer->done(out, generation->usage(0));
    } catch (const RequestError& error) {
      service.metrics->request_failed("generation");
      writer->failed(out, error);
    }
    return false;
  };
}

}  // namespace sluice
