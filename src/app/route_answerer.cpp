// SPDX-License-Identifier: Apache-2.0
#include "app/route_answerer.h"

#include <fmt/format.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "api/dialect.h"
#include "base/clock.h"
#include "base/error.h"
#include "batch/answer.h"

namespace sluice {
namespace {

// The answer's time would differ in every attempt. The first member of that name is the body's own: it stands before
// any text.
void set_created(std::string& body, int64_t created) {
  constexpr std::string_view kName = "\"created\":";
  const size_t at = body.find(kName);
  if (at == std::string::npos) return;
  const size_t begin = at + kName.size(), end = body.find_first_not_of("0123456789", begin);
  body.replace(begin, end - begin, std::to_string(created));
}

class RouteAnswerer final : public Answerer {
 public:
  RouteAnswerer(const Service& service, std::unique_ptr<Answerer> plain, uint64_t seed, int64_t threads,
                int64_t created)
      : service_(service),
        plain_(std::move(plain)),
        seed_(seed),
        most_(threads),
        created_(created),
        router_(dialects()) {}

  ~RouteAnswerer() override {
    std::map<int64_t, std::function<void()>> leaving;
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
      leaving.swap(leave_);
    }
    filled_.notify_all();
    for (const auto& [index, leave] : leaving) leave();
    for (std::thread& thread : threads_) thread.join();
  }

  void submit(Prompt prompt, Done done) override {
    if (!prompt.openai) return plain_->submit(std::move(prompt), std::move(done));
    const std::lock_guard lock(mutex_);
    queue_.emplace_back(std::move(prompt), std::move(done));
    if (idle_ < static_cast<int64_t>(queue_.size()) && static_cast<int64_t>(threads_.size()) < most_)
      threads_.emplace_back([this] { serve(); });
    filled_.notify_one();
  }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      filled_.wait(lock, [this] { return over_ || !queue_.empty(); });
      --idle_;
      if (over_) return;
      const auto [prompt, done] = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      Answered answered = answer(prompt);
      lock.lock();
      leave_.erase(prompt.index);
      if (over_) return;
      done(std::move(answered));
    }
  }

  Answered answer(const Prompt& prompt) {
    Service service = service_;
    int64_t part = 0;  // of a line with several prompts
    service.submit = [&](GenerateRequest request, std::shared_ptr<Sink> sink) {
      if (!request.has_seed) {
        request.has_seed = true;
        request.sampling.seed = prompt_seed(seed_ + static_cast<uint64_t>(part), prompt.index);
      }
      ++part;
      return service_.submit(std::move(request), std::move(sink));
    };
    HttpRequest request;
    request.method = "POST";
    request.path = prompt.url;
    request.headers.add("content-type", "application/json");
    request.body = prompt.body;
    request.id = request_id(prompt);
    request.arrived = monotonic_seconds();
    Reply reply;
    reply.when_gone = [this, index = prompt.index](std::function<void()> leave) {
      std::unique_lock lock(mutex_);
      if (!over_) {
        leave_[index] = std::move(leave);
        return;
      }
      lock.unlock();
      leave();
    };
    const Router::Match match = router_.find(request);
    check(match.route != nullptr, "a route of OpenAI's is not there");
    std::string why;
    try {
      match.route->handler(request, reply, {ServerState::kReady, &service});
    } catch (const RequestError& error) {
      using Kind = RequestError::Kind;
      if (error.kind() == Kind::kUnavailable || error.kind() == Kind::kOverloaded || error.kind() == Kind::kGeneration)
        return {prompt.index, {}, {}, error.what(), 0};
      why = error.what();
      match.dialect->error({error.kind(), error.what(), error.param(), 0}, request, reply);
    }
    set_created(reply.body, created_);
    return {prompt.index,
            format_response(prompt, reply.status, reply.body),
            why.empty() ? why : fmt::format("line {}: {}", prompt.line, why),
            {},
            generated(reply.body)};
  }

  static int64_t generated(const std::string& body) {
    const Value parsed = Value::parse_json(body);
    const Value* usage = parsed.find("usage");
    const Value* tokens = usage == nullptr ? nullptr : usage->find("completion_tokens");
    return tokens != nullptr && tokens->is_int() ? tokens->as_int() : 0;
  }

  const Service& service_;
  const std::unique_ptr<Answerer> plain_;
  const uint64_t seed_;
  const int64_t most_, created_;
  const Router router_;

  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::pair<Prompt, Done>> queue_;
  std::map<int64_t, std::function<void()>> leave_;  // by prompt under way
  int64_t idle_ = 0;
  bool over_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Answerer> route_answerer(const Service& service, std::unique_ptr<Answerer> plain, uint64_t seed,
                                         int64_t threads, int64_t created) {
  return std::make_unique<RouteAnswerer>(service, std::move(plain), seed, threads, created);
}

}  // namespace sluice
