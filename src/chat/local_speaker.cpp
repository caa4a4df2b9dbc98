// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "base/clock.h"
#include "base/error.h"
#include "chat/speaker.h"
#include "text/channels.h"

namespace sluice {
namespace {

// Hands what the output thread brings to the thread that waits.
class WaitingSink : public Sink {
 public:
  void on_delta(const Delta& delta) override {
    const std::lock_guard lock(mutex_);
    fresh_ += delta.text;
    if (delta.finish == FinishReason::kLength) cut_ = true;
    changed_.notify_one();
  }
  void on_done(const Usage& usage) override {
    const std::lock_guard lock(mutex_);
    usage_ = usage;
    ended_ = true;
    changed_.notify_one();
  }
  void on_error(std::string_view message) override {
    const std::lock_guard lock(mutex_);
    error_ = message;
    ended_ = true;
    changed_.notify_one();
  }
  // Takes what is new; false at the end. Throws RequestError when the engine lost the request.
  bool take(std::string& fresh, bool& cut, Usage& usage) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(50), [&] { return ended_ || !fresh_.empty(); });
    fresh = std::exchange(fresh_, {});
    cut = cut_;
    usage = usage_;
    if (!error_.empty()) throw RequestError(RequestError::Kind::kGeneration, error_);
    return !ended_ || !fresh.empty();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string fresh_, error_;
  Usage usage_;
  bool ended_ = false, cut_ = false;
};

class LocalSpeaker : public Speaker {
 public:
  LocalSpeaker(std::string name, Engine& engine, const ChatTemplate* chat, const GenerateRequest& defaults)
      : name_(std::move(name)), engine_(engine), chat_(chat), defaults_(defaults) {}
  const std::string& name() const override { return name_; }

  Said chat(const List& messages, const ChatParameters& parameters, const OnText& on_text,
            const std::atomic<bool>& stop) override {
    if (chat_ == nullptr) throw RequestError(RequestError::Kind::kTemplate, name_ + " has no chat template");
    ChatInput input;
    input.messages = Value(messages);
    return run(engine_.tokenizer().encode(chat_->render(input), false), speaks_channels(engine_.tokenizer()),
               parameters, on_text, stop);
  }
  Said complete(const std::string& prompt, const ChatParameters& parameters, const OnText& on_text,
                const std::atomic<bool>& stop) override {
    return run(engine_.tokenizer().encode(prompt, true), false, parameters, on_text, stop);
  }

 private:
  Said run(std::vector<int32_t> prompt, bool channels, const ChatParameters& parameters, const OnText& on_text,
           const std::atomic<bool>& stop) {
    GenerateRequest request = defaults_;
    parameters.apply(request);
    request.channels = channels;
    const RunLimits& limits = engine_.info().limits;
    const int64_t room = limits.max_context - (limits.max_encoder > 0 ? 1 : static_cast<int64_t>(prompt.size()));
    request.max_new_tokens = static_cast<int32_t>(std::clamp<int64_t>(room, 1, request.max_new_tokens));
    request.prompt = std::move(prompt);
    Said said;
    said.prompt_tokens = static_cast<int64_t>(request.prompt.size());
    const double began = monotonic_seconds();
    const auto sink = std::make_shared<WaitingSink>();
    const uint64_t id = engine_.submit(std::move(request), sink);
    std::string fresh;
    Usage usage;
    int64_t pieces = 0;
    while (!stop && sink->take(fresh, said.cut, usage)) {
      if (fresh.empty()) continue;
      if (pieces++ == 0) said.first_seconds = monotonic_seconds() - began;
      said.text += fresh;
      try {
        on_text(fresh);
      } catch (...) {
        engine_.cancel(id);
        throw;
      }
    }
    said.stopped = stop;
    if (said.stopped) engine_.cancel(id);
    said.seconds = monotonic_seconds() - began;
    said.tokens = usage.generated_tokens > 0 ? usage.generated_tokens : pieces;
    return said;
  }

  const std::string name_;
  Engine& engine_;
  const ChatTemplate* chat_;
  const GenerateRequest& defaults_;
};

}  // namespace

std::unique_ptr<Speaker> local_speaker(std::string name, Engine& engine, const ChatTemplate* chat,
                                       const GenerateRequest& defaults) {
  return std::make_unique<LocalSpeaker>(std::move(name), engine, chat, defaults);
}

}  // namespace sluice
