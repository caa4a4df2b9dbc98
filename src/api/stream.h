// SPDX-License-Identifier: Apache-2.0
// Between the engine's output thread and whoever writes the reply. A Generation owns the engine requests of one HTTP
// exchange: it queues their output, says that there is some, and cancels what is unfinished when it goes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/http.h"
#include "api/service.h"
#include "base/error.h"

namespace sluice {

// A Delta that outlives the sink's call. `source` numbers the engine request within the exchange.
struct Event {
  int32_t source = 0, choice = 0, index = 0;
  FinishReason finish = FinishReason::kNone;
  bool has_token = false;
  int32_t stop_id = -1;
  std::string text, reasoning, stop_text;
  TokenInfo token;  // when has_token
};

class Generation {
 public:
  enum class Mode { kStream, kWhole };  // kStream: for next(), after Reply::ready; kWhole: for collect()
  enum class Next { kEvents, kIdle, kDone, kGone };

  Generation(const Service& service, Reply& reply, Mode mode);
  ~Generation();  // cancels what is unfinished

  // Submits the next source; numbers count from 0. Throws RequestError as Engine::submit. Start all before next().
  void start(GenerateRequest request);
  // Swaps the output so far into `events` (cleared first). kIdle: there is none yet. kDone: everything was delivered
  // before. kGone: the client left. Throws RequestError(kGeneration) when the engine lost a request.
  Next next(std::vector<Event>& events);
  // next() until there is nothing more, `take` for each event. After many events kIdle and Reply::ready, so that other
  // streams have their turn first.
  static constexpr size_t kEventsInTurn = 256;
  template <class F>
  Next drain(std::vector<Event>& events, const F& take) {
    for (size_t taken = 0; taken < kEventsInTurn; taken += events.size()) {
      const Next what = next(events);
      if (what != Next::kEvents) return what;
      for (Event& event : events) take(event);
    }
    again();
    return Next::kIdle;
  }
  // Waits for the end of all sources; false when the client left. Throws as next().
  bool collect(std::vector<Event>& events);

  const Usage& usage(size_t source) const;  // valid once the source is done
  bool source_done(size_t source) const;
  const std::vector<TokenInfo>& prompt(size_t source) const;  // with prompt_logprobs; valid once output arrived
  size_t sources() const;

 private:
  struct Shared;
  class SourceSink;
  void account();
  void again() const;
  const Service& service_;
  std::shared_ptr<Shared> shared_;
  std::shared_ptr<Account> account_;  // null without a request log
  double started_ = 0;                // monotonic seconds
};

// One choice of a finished generation, put together from its events.
struct Answer {
  std::string text, reasoning;
  std::vector<TokenInfo> tokens;  // when asked for
  int32_t n_tokens = 0;
  FinishReason finish = FinishReason::kNone;
  std::string stop_text;
  int32_t stop_id = -1;
};
// Answers of one source, in order of choice.
std::vector<Answer> assemble(std::vector<Event>& events, int32_t source, int32_t n);

// Requests run to their end. Nothing when the client left before it.
struct Finished {
  std::vector<Answer> answers;
  std::vector<TokenInfo> prompt;  // with prompt_logprobs
  Usage usage;
  double seconds = 0;  // submission to end
};
std::optional<Finished> run(const Service& service, Reply& reply, GenerateRequest request);
std::optional<std::vector<Finished>> run_all(const Service& service, Reply& reply,
                                             std::vector<GenerateRequest> requests);

// How one dialect writes one streamed request.
class StreamWriter {
 public:
  virtual ~StreamWriter() = default;
  virtual void event(std::string& out, const Event& event) = 0;
  virtual void done(std::string& out, const Usage& usage) = 0;
  virtual void failed(std::string& out, const RequestError& error) = 0;
};
// Submits the request (throws as Engine::submit) and makes `reply` stream its output; headers and keep_alive are the
// caller's.
void stream(const Service& service, Reply& reply, GenerateRequest request, std::shared_ptr<StreamWriter> writer);

// Reply::keep_alive of server-sent events: a comment.
inline constexpr std::string_view kKeepAlive = ":\n\n";

}  // namespace sluice
