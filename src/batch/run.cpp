// SPDX-License-Identifier: Apache-2.0
#include "batch/run.h"

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "batch/answer.h"
#include "batch/journal.h"

namespace sluice {
namespace {

struct Finished {
  int64_t index = 0;
  std::string text, stop, lost;  // lost: why the engine gave the request up
  FinishReason finish = FinishReason::kNone;
  Usage usage;
};

// Where sinks put what is finished and the writing thread takes it.
class Mailbox {
 public:
  void put(Finished finished) {
    {
      const std::lock_guard lock(mutex_);
      finished_.push_back(std::move(finished));
    }
    arrived_.notify_one();
  }
  bool take(Finished& finished, double seconds) {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return !finished_.empty(); }))
      return false;
    finished = std::move(finished_.front());
    finished_.pop_front();
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Finished> finished_;
};

class BatchSink : public Sink {
 public:
  BatchSink(int64_t index, std::shared_ptr<Mailbox> mailbox) : mailbox_(std::move(mailbox)) { finished_.index = index; }
  void on_delta(const Delta& delta) override {
    finished_.text += delta.text;
    if (delta.finish == FinishReason::kNone) return;
    finished_.finish = delta.finish;
    finished_.stop = delta.stop_text;
  }
  void on_done(const Usage& usage) override {
    finished_.usage = usage;
    mailbox_->put(std::move(finished_));
  }
  void on_error(std::string_view message) override {
    finished_.lost = message;
    mailbox_->put(std::move(finished_));
  }

 private:
  std::shared_ptr<Mailbox> mailbox_;
  Finished finished_;
};

// SplitMix64 over (job seed, index): the seed of a prompt is the same in every attempt.
uint64_t prompt_seed(uint64_t seed, int64_t index) {
  uint64_t z = seed + 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(index) + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return (z ^ (z >> 31)) >> 1;  // fits JSON's signed integers
}

void encode_prompt(Prompt& prompt, const Tokenizer& tokenizer, const ChatTemplate* chat) {
  if (!prompt.messages.is_list()) {
    prompt.request.prompt = tokenizer.encode(prompt.text, true);
    return;
  }
  if (chat == nullptr)
    throw RequestError(RequestError::Kind::kTemplate,
                       "the model has no chat template; use 'prompt', or give --chat-template");
  ChatInput input;
  input.messages = prompt.messages;
  prompt.request.prompt = tokenizer.encode(chat->render(input), false);
}

std::string clock_text(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

bool batch_is_complete(const BatchOptions& options) { return is_complete(options.output, PromptFile(options.prompts)); }

BatchReport run_batch(const BatchOptions& options, Engine& engine, const ChatTemplate* chat,
                      const std::atomic<bool>& stop) {
  const double started = monotonic_seconds();
  const PromptFile prompts(options.prompts);
  BatchReport report;
  report.prompts = prompts.size();
  if (is_complete(options.output, prompts)) {
    report.done = report.resumed = report.prompts;
    report.complete = true;
    return report;
  }
  Journal journal(options.output.string() + ".journal", options.fingerprint, prompts);
  report.resumed = journal.done();
  if (report.resumed > 0)
    log_info(fmt::format("resuming: {} of {} prompts are answered already", report.resumed, report.prompts));

  struct UnderWay {
    uint64_t id;
    Prompt prompt;
  };
  std::map<int64_t, UnderWay> under_way;
  const auto mailbox = std::make_shared<Mailbox>();
  std::string lost;
  const auto record = [&](const Prompt& prompt, const std::string& answer) {
    journal.append(prompt.index, content_hash(prompts.raw(prompt.index)), answer);
  };
  const auto record_error = [&](const Prompt& prompt, const std::string& error) {
    log_warning(fmt::format("prompt {} (line {}): {}", prompt.index, prompt.line, error));
    record(prompt, format_error(prompt, error));
    ++report.errors;
  };

  int64_t next = 0;
  double last_sync = started, last_progress = started;
  while ((next < prompts.size() || !under_way.empty()) && !stop && lost.empty()) {
    while (next < prompts.size() && static_cast<int64_t>(under_way.size()) < options.window && !stop) {
      const int64_t index = next++;
      if (journal.has(index)) continue;
      Prompt prompt = prompts.read(index, options.defaults);
      if (!prompt.error.empty()) {
        record_error(prompt, prompt.error);
        continue;
      }
      try {
        encode_prompt(prompt, engine.tokenizer(), chat);
        if (!prompt.request.has_seed) {
          prompt.request.has_seed = true;
          prompt.request.sampling.seed = prompt_seed(options.seed, index);
        }
        const uint64_t id = engine.submit(prompt.request, std::make_shared<BatchSink>(index, mailbox));
        under_way.emplace(index, UnderWay{id, std::move(prompt)});
      } catch (const RequestError& error) {
        if (error.kind() == RequestError::Kind::kUnavailable || error.kind() == RequestError::Kind::kOverloaded)
          throw Error(error.what());
        record_error(prompt, error.what());
      }
    }
    Finished finished;
    if (!under_way.empty() && mailbox->take(finished, 0.2)) {
      const auto found = under_way.find(finished.index);
      if (!finished.lost.empty()) {
        lost = finished.lost;
      } else {
        record(found->second.prompt,
               format_answer(found->second.prompt, finished.text, finished.finish, finished.stop, finished.usage));
        report.generated_tokens += finished.usage.generated_tokens;
      }
      under_way.erase(found);
    }
    const double now = monotonic_seconds();
    if (now - last_sync > 1.0) {
      journal.sync();
      last_sync = now;
    }
    if (now - last_progress > options.progress_seconds) {
      const int64_t mine = journal.done() - report.resumed;
      const double left =
          mine > 0 ? (now - started) / static_cast<double>(mine) * static_cast<double>(report.prompts - journal.done())
                   : 0;
      log_info(fmt::format("{} of {} prompts, {:.1f} generated tokens/s, about {} left", journal.done(), report.prompts,
                           static_cast<double>(report.generated_tokens) / (now - started),
                           mine > 0 ? clock_text(left) : "?"));
      last_progress = now;
    }
  }
  for (const auto& [index, request] : under_way) engine.cancel(request.id);
  journal.sync();
  report.done = journal.done();
  report.seconds = monotonic_seconds() - started;
  if (!lost.empty())
    throw Error(
        fmt::format("the engine stopped: {}; {} of {} prompts are answered, run the same command again to go on", lost,
                    report.done, report.prompts));
  if (report.done == report.prompts) {
    journal.finish(options.output);
    report.complete = true;
  }
  return report;
}

}  // namespace sluice
