// SPDX-License-Identifier: Apache-2.0
// A stand-in for the engine: answers each request with a script, from a thread of its own as the real one does.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "api/metrics.h"
#include "api/service.h"
#include "base/error.h"
#include "text/channels.h"

namespace sluice {

struct FakeEngine {
  std::vector<int32_t> answer = {72, 105, 33};  // "Hi!" in byte tokens, then eos unless the length ends it first
  double delay = 0;                             // seconds before each token
  int burst = 1;                                // tokens after each delay
  bool refuse = false;                          // submit throws kOverloaded
  bool lose = false;                            // on_error in place of the second token
  std::atomic<int> submitted = 0, cancelled = 0, finished = 0;
  GenerateRequest last;  // as submitted

  FakeEngine() : thread_([this] { loop(); }) {}
  ~FakeEngine() {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  uint64_t submit(GenerateRequest request, std::shared_ptr<Sink> sink) {
    if (refuse) throw RequestError(RequestError::Kind::kOverloaded, "128 requests are waiting already");
    std::lock_guard lock(mutex_);
    ++submitted;
    last = request;
    uint64_t id = ++next_;
    jobs_[id] = {std::move(request), std::move(sink), 0, {}, std::chrono::steady_clock::now()};
    wake_.notify_all();
    return id;
  }
  void cancel(uint64_t id) {
    std::lock_guard lock(mutex_);
    if (jobs_.erase(id) > 0) ++cancelled;
  }
  GenerateRequest seen() {
    std::lock_guard lock(mutex_);
    return last;
  }

  Service service(Metrics& metrics) {
    Service s;
    s.submit = [this](GenerateRequest r, std::shared_ptr<Sink> sink) { return submit(std::move(r), std::move(sink)); };
    s.cancel = [this](uint64_t id) { cancel(id); };
    s.stats = [] { return EngineStats{}; };
    s.tokenizer = tokenizer.get();
    s.chat = chat.get();
    s.model.id = "test-model";
    s.model.aliases = {"other-name"};
    s.model.root = "models/test";
    s.model.family = "llama";
    s.model.parameters = 1500000;
    s.model.weight_bytes = 6000000;
    s.model.max_context = 2048;
    s.version = "0.1.0";
    s.started = 1700000000;
    s.metrics = &metrics;
    return s;
  }

  std::unique_ptr<Tokenizer> tokenizer = Tokenizer::bytes();
  std::unique_ptr<ChatTemplate> chat;

 private:
  struct Job {
    GenerateRequest request;
    std::shared_ptr<Sink> sink;
    int step = 0;
    std::map<int32_t, ChannelReader> channels;
    std::chrono::steady_clock::time_point due;
  };

  TokenInfo token(int32_t id, int32_t n_top) const {
    TokenInfo t;
    t.id = id;
    t.logprob = -0.5f;
    t.special = id >= 256;
    t.text = id < 256 ? std::string(1, static_cast<char>(id)) : id == 257 ? "</s>" : "<s>";
    for (int32_t k = 0; k < n_top; ++k) {
      TokenInfo other;
      other.id = id + k;
      other.logprob = -0.5f - static_cast<float>(k);
      other.text = std::string(1, static_cast<char>('a' + k));
      if (k == 0) other.text = t.text;
      t.top.push_back(other);
    }
    return t;
  }

  // One token for every choice; true when the request is over.
  bool advance(Job& job) {
    const GenerateRequest& r = job.request;
    if (job.step == 0 && r.prompt_logprobs >= 0) {
      std::vector<TokenInfo> prompt;
      for (int32_t id : r.prompt) {
        prompt.push_back(token(id, r.prompt_logprobs));
        prompt.back().rank = 1;
      }
      if (!prompt.empty()) prompt[0].logprob = std::numeric_limits<float>::quiet_NaN();
      job.sink->on_prompt(prompt);
    }
    if (lose && job.step == 1) {
      job.sink->on_error("a rank was lost");
      return true;
    }
    const auto at = static_cast<size_t>(job.step++);
    const bool eos = at >= answer.size() && !r.ignore_eos;
    const int32_t id = eos ? 257 : answer[at % answer.size()];
    std::string text = eos ? "" : std::string(1, static_cast<char>(id));
    FinishReason finish = FinishReason::kNone;
    std::string stop;
    if (eos) finish = FinishReason::kEos;
    if (job.step >= r.max_new_tokens) finish = FinishReason::kLength;
    for (const std::string& s : r.stop) {
      if (s != text || finish != FinishReason::kNone) continue;
      finish = FinishReason::kStop;
      stop = s;
      if (!r.keep_stop_text) text.clear();
    }
    TokenInfo info = token(id, r.sampling.n_logprobs);
    for (int32_t c = 0; c < r.n; ++c) {
      Delta d;
      d.choice = c;
      d.index = job.step;
      d.text = text;
      std::string content, reasoning;
      if (r.channels) {
        job.channels[c].read(text, finish != FinishReason::kNone, content, reasoning);
        d.text = content;
        d.reasoning = reasoning;
      }
      if (r.want_tokens) d.token = &info;
      d.finish = finish;
      d.stop_text = stop;
      job.sink->on_delta(d);
    }
    if (finish == FinishReason::kNone) return false;
    Usage usage;
    usage.prompt_tokens = static_cast<int32_t>(r.prompt.size());
    usage.generated_tokens = job.step * r.n;
    usage.seed = r.has_seed ? r.sampling.seed : 42;
    job.sink->on_done(usage);
    ++finished;
    return true;
  }

  void loop() {
    std::unique_lock lock(mutex_);
    while (!closing_) {
      if (jobs_.empty()) {
        wake_.wait(lock);
        continue;
      }
      const auto now = std::chrono::steady_clock::now();
      auto soonest = now + std::chrono::seconds(1);
      for (auto it = jobs_.begin(); it != jobs_.end();) {
        Job& job = it->second;
        if (job.due <= now) {
          bool over = false;
          for (int i = 0; i < burst && !over; ++i) over = advance(job);
          if (over) {
            it = jobs_.erase(it);
            continue;
          }
          job.due = now + std::chrono::microseconds(static_cast<int64_t>(delay * 1e6));
        }
        soonest = std::min(soonest, job.due);
        ++it;
      }
      if (!jobs_.empty()) wake_.wait_until(lock, soonest);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<uint64_t, Job> jobs_;
  uint64_t next_ = 0;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace sluice
