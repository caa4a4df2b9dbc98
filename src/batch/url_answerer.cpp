// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "batch/answer.h"
#include "batch/answerer.h"
#include "client/http_client.h"

namespace sluice {
namespace {

constexpr double kFirstPause = 0.5, kLongestPause = 30;
constexpr int kMostFailures = 3;  // of one prompt, where the server says that it failed itself

// The server's words about an error, in whichever shape.
std::string words_of(const ClientReply& reply) {
  try {
    const Value body = Value::parse_json(reply.body);
    const Value* error = body.find("error");
    if (error != nullptr && error->is_string()) return error->as_string();
    const Value* message = error == nullptr ? body.find("message") : error->find("message");
    if (message != nullptr && message->is_string()) return message->as_string();
  } catch (const RequestError&) {
  }
  return fmt::format("status {}: {}", reply.head.status, reply.body.substr(0, 200));
}

const Value& member(const Value& object, std::string_view key) {
  static const Value none;
  const Value* found = object.find(key);
  return found == nullptr ? none : *found;
}

int64_t count(const Value& object, std::string_view key) {
  const Value& value = member(object, key);
  return value.is_int() ? value.as_int() : 0;
}

class UrlAnswerer final : public Answerer {
 public:
  explicit UrlAnswerer(UrlAnswererOptions options) : options_(std::move(options)) {
    if (options_.model.empty()) options_.model = first_model();
    for (int64_t i = 0; i < std::max<int64_t>(1, options_.connections); ++i) threads_.emplace_back([this] { serve(); });
  }
  ~UrlAnswerer() override {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    filled_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void submit(Prompt prompt, Done done) override {
    {
      const std::lock_guard lock(mutex_);
      queue_.emplace_back(std::move(prompt), std::move(done));
    }
    filled_.notify_one();
  }

 private:
  std::unique_ptr<HttpClient> client() const {
    const UrlEndpoint where = options_.where();
    auto client = std::make_unique<HttpClient>(Url::parse(where.url), where.key);
    client->silence_seconds = options_.silence;
    client->stop = &over_;
    return client;
  }

  std::string first_model() const {
    const ClientReply reply = client()->get("/v1/models");
    if (reply.head.status == 401 || reply.head.status == 403)
      throw Error(fmt::format("{} refuses the key: {}", options_.where().url, words_of(reply)));
    try {
      const Value list = Value::parse_json(reply.body);
      const Value& models = member(list, "data");
      if (reply.head.status == 200 && models.is_list() && !models.as_list().empty() &&
          member(models.as_list()[0], "id").is_string())
        return member(models.as_list()[0], "id").as_string();
    } catch (const RequestError&) {
    }
    throw Error(fmt::format("{} does not say at /v1/models what it serves ({}); name it with --model",
                            options_.where().url, words_of(reply)));
  }

  void serve() {
    std::unique_ptr<HttpClient> kept;
    std::unique_lock lock(mutex_);
    for (;;) {
      filled_.wait(lock, [this] { return over_ || !queue_.empty(); });
      if (over_) return;
      const auto [prompt, done] = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      Answered answered = answer(kept, prompt);
      lock.lock();
      if (over_) return;
      done(std::move(answered));
    }
  }

  // Sleeps; false when this answerer ends meanwhile.
  bool pause(double seconds) {
    std::unique_lock lock(mutex_);
    return !filled_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return over_.load(); });
  }

  Answered answer(std::unique_ptr<HttpClient>& kept, const Prompt& prompt) {
    const std::string body = prompt.openai ? prompt.body : body_of(prompt);
    const std::string& path = prompt.openai ? prompt.url : prompt.messages.is_list() ? kChat : kCompletions;
    const double give_up = monotonic_seconds() + options_.patience;
    double wait = kFirstPause;
    int failures = 0;
    for (std::string why;;) {
      double asked_to_wait = 0;
      try {
        if (kept == nullptr) kept = client();
        const ClientReply reply = kept->post_json(path, body);
        const int status = reply.head.status;
        if (over_) return lost(prompt, "stopped");
        if (status == 200) return read(prompt, reply);
        why = words_of(reply);
        if (status == 401 || status == 403) return lost(prompt, fmt::format("the server refuses the key: {}", why));
        const bool busy = status == 408 || status == 429 || status == 502 || status == 503 || status == 504;
        if (!busy && (status < 500 || ++failures >= kMostFailures)) return refused(prompt, status, reply, why);
        const std::string_view after = reply.head.get("retry-after");
        std::from_chars(after.data(), after.data() + after.size(), asked_to_wait);
      } catch (const RequestError& error) {  // a reply that is not what the route answers
        why = error.what();
        if (++failures >= kMostFailures) return refused(prompt, 502, {}, why);
      } catch (const Error& error) {
        why = error.what();
        kept.reset();  // the job may have moved
      }
      if (monotonic_seconds() > give_up)
        return lost(prompt,
                    fmt::format("no answer from {} for {:.0f} s: {}", options_.where().url, options_.patience, why));
      if (!pause(std::max(wait, std::min(asked_to_wait, kLongestPause)))) return lost(prompt, "stopped");
      wait = std::min(2 * wait, kLongestPause);
    }
  }

  static Answered lost(const Prompt& prompt, std::string why) { return {prompt.index, {}, {}, std::move(why), 0}; }
  static Answered refused(const Prompt& prompt, int status, const ClientReply& reply, const std::string& why) {
    const bool whole = prompt.openai && !reply.body.empty() && is_json(reply.body);
    return {prompt.index, whole ? format_response(prompt, status, reply.body) : format_error(prompt, why), why, {}, 0};
  }
  static bool is_json(const std::string& text) {
    try {
      return Value::parse_json(text).is_dict();
    } catch (const RequestError&) {
      return false;
    }
  }

  Answered read(const Prompt& prompt, const ClientReply& reply) const {
    const Value body = Value::parse_json(reply.body);
    const Value& usage = member(body, "usage");
    Usage used;
    used.prompt_tokens = static_cast<int32_t>(count(usage, "prompt_tokens"));
    used.generated_tokens = static_cast<int32_t>(count(usage, "completion_tokens"));
    used.seed = seed_of(prompt);
    if (prompt.openai) return {prompt.index, format_response(prompt, 200, reply.body), {}, {}, used.generated_tokens};
    const Value& choices = member(body, "choices");
    if (!choices.is_list() || choices.as_list().empty())
      throw RequestError(RequestError::Kind::kMalformed, "the server answered without choices");
    const Value& choice = choices.as_list()[0];
    const Value& text =
        prompt.messages.is_list() ? member(member(choice, "message"), "content") : member(choice, "text");
    const Value &finish = member(choice, "finish_reason"), &stop = member(choice, "stop_reason");
    const bool length = finish.is_string() && finish.as_string() == "length";
    return {prompt.index,
            format_answer(prompt, text.is_string() ? text.as_string() : "",
                          length ? FinishReason::kLength : FinishReason::kStop,
                          stop.is_string() ? stop.as_string() : "", used),
            {},
            {},
            used.generated_tokens};
  }

  uint64_t seed_of(const Prompt& prompt) const {
    return prompt.request.has_seed ? prompt.request.sampling.seed : prompt_seed(options_.seed, prompt.index);
  }

  // The line's own parameters under their own names, and the defaults that a server would not guess.
  std::string body_of(const Prompt& prompt) const {
    const GenerateRequest& request = prompt.request;
    const SamplingParams& s = request.sampling;
    Dict body;
    body.set("model", options_.model);
    if (prompt.messages.is_list())
      body.set("messages", prompt.messages);
    else
      body.set("prompt", prompt.text);
    body.set("max_tokens", static_cast<int64_t>(request.max_new_tokens));
    body.set("temperature", s.greedy ? 0.0 : static_cast<double>(s.temperature));
    body.set("seed", static_cast<int64_t>(seed_of(prompt)));
    if (s.top_p < 1) body.set("top_p", static_cast<double>(s.top_p));
    if (s.top_k > 0) body.set("top_k", static_cast<int64_t>(s.top_k));
    if (s.repetition_penalty != 1) body.set("repetition_penalty", static_cast<double>(s.repetition_penalty));
    for (const auto& [name, value] : prompt.parameters.entries()) {
      const bool told = name == "max_new_tokens" || name == "max_completion_tokens" || name == "do_sample" ||
                        name == "temperature" || name == "seed";
      if (!told) body.set(name == "min_new_tokens" ? "min_tokens" : name, value);
    }
    return Value(body).dump_compact();
  }

  static inline const std::string kChat = "/v1/chat/completions", kCompletions = "/v1/completions";

  UrlAnswererOptions options_;
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::pair<Prompt, Done>> queue_;
  std::atomic<bool> over_{false};
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Answerer> url_answerer(UrlAnswererOptions options) {
  return std::make_unique<UrlAnswerer>(std::move(options));
}

}  // namespace sluice
