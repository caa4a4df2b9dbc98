// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <mutex>

#include "base/error.h"
#include "batch/answer.h"
#include "batch/answerer.h"
#include "text/channels.h"

namespace sluice {
namespace {

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
  prompt.request.channels = prompt.request.skip_special && speaks_channels(tokenizer);
}

class EngineAnswerer final : public Answerer {
 public:
  EngineAnswerer(Engine& engine, const ChatTemplate* chat, uint64_t seed) : engine_(engine), chat_(chat), seed_(seed) {}
  ~EngineAnswerer() override {
    std::map<int64_t, uint64_t> under_way;
    {
      const std::lock_guard lock(state_->mutex);
      state_->over = true;
      under_way.swap(state_->under_way);
    }
    for (const auto& [index, id] : under_way) engine_.cancel(id);
  }

  void submit(Prompt prompt, Done done) override {
    const int64_t index = prompt.index;
    try {
      encode_prompt(prompt, engine_.tokenizer(), chat_);
      if (!prompt.request.has_seed) {
        prompt.request.has_seed = true;
        prompt.request.sampling.seed = prompt_seed(seed_, index);
      }
      GenerateRequest request = std::move(prompt.request);
      prompt.request = {};
      const uint64_t id = engine_.submit(std::move(request), std::make_shared<BatchSink>(prompt, state_, done));
      const std::lock_guard lock(state_->mutex);
      if (!state_->ended.erase(index)) state_->under_way[index] = id;
    } catch (const RequestError& error) {
      if (error.kind() == RequestError::Kind::kUnavailable || error.kind() == RequestError::Kind::kOverloaded)
        throw Error(error.what());
      done({index, format_error(prompt, error.what()), error.what(), {}, 0});
    }
  }

 private:
  struct State {
    std::mutex mutex;
    bool over = false;
    std::map<int64_t, uint64_t> under_way;  // prompt -> request
    std::map<int64_t, bool> ended;          // before submit() knew the request's id
    void end(int64_t index) {
      if (under_way.erase(index) == 0) ended[index] = true;
    }
  };

  class BatchSink : public Sink {
   public:
    BatchSink(Prompt prompt, std::shared_ptr<State> state, Done done)
        : prompt_(std::move(prompt)), state_(std::move(state)), done_(std::move(done)) {}
    void on_delta(const Delta& delta) override {
      text_ += delta.text;
      if (delta.finish == FinishReason::kNone) return;
      finish_ = delta.finish;
      stop_ = delta.stop_text;
    }
    void on_done(const Usage& usage) override {
      deliver({prompt_.index, format_answer(prompt_, text_, finish_, stop_, usage), {}, {}, usage.generated_tokens});
    }
    void on_error(std::string_view message) override { deliver({prompt_.index, {}, {}, std::string(message), 0}); }

   private:
    void deliver(Answered answered) {
      const std::lock_guard lock(state_->mutex);
      if (state_->over) return;
      state_->end(answered.index);
      done_(std::move(answered));
    }
    Prompt prompt_;
    std::shared_ptr<State> state_;
    Done done_;
    std::string text_, stop_;
    FinishReason finish_ = FinishReason::kNone;
  };

  Engine& engine_;
  const ChatTemplate* chat_;
  const uint64_t seed_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace

// SplitMix64 over (job seed, index).
uint64_t prompt_seed(uint64_t seed, int64_t index) {
  uint64_t z = seed + 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(index) + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return (z ^ (z >> 31)) >> 1;  // fits JSON's signed integers
}

std::unique_ptr<Answerer> engine_answerer(Engine& engine, const ChatTemplate* chat, uint64_t seed) {
  return std::make_unique<EngineAnswerer>(engine, chat, seed);
}

}  // namespace sluice
