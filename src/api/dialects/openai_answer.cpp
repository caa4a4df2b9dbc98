// SPDX-License-Identifier: Apache-2.0
#include "api/dialects/openai_answer.h"

#include <utility>

#include "api/dialects/openai_reply.h"
#include "api/json.h"
#include "api/metrics.h"
#include "api/stream.h"
#include "base/clock.h"

namespace sluice::openai {
namespace {

Frame frame_of(const HttpRequest& http, const Service& service) {
  return {http.id, static_cast<int64_t>(wall_seconds()), service.model.id, "sluice-" + service.version};
}

void answer_whole(const HttpRequest& http, Reply& reply, const Service& service, Call call) {
  auto finished = run_all(service, reply, std::move(call.requests));
  if (!finished) return;
  std::vector<std::vector<Answer>> answers;
  std::vector<std::vector<TokenInfo>> prompts;
  Totals totals;
  for (Finished& one : *finished) {
    answers.push_back(std::move(one.answers));
    prompts.push_back(std::move(one.prompt));
    totals.prompt += one.usage.prompt_tokens;
    totals.cached += one.usage.cached_tokens;
    if (!call.only_prompt) totals.generated += one.usage.generated_tokens;
  }
  reply.json(200, whole(call, frame_of(http, service), answers, prompts, totals));
}

// State of one stream; lives in the reply's closure.
struct Stream {
  Stream(const HttpRequest& http, const Service& s, Reply& reply, Call c)
      : service(s),
        call(std::move(c)),
        chunks(call, frame_of(http, s)),
        generation(s, reply, Generation::Mode::kStream),
        choices(call.requests.size() * static_cast<size_t>(call.n)) {
    for (Choice& choice : choices) choice.held = call.tools.choice != ToolUse::Choice::kNone;
    for (const GenerateRequest& request : call.requests) so_far.prompt += static_cast<int64_t>(request.prompt.size());
  }

  bool produce(std::string& out) try {
    if (!opened) {
      opened = true;
      open(out);
    }
    const auto next = generation.drain(events, [&](Event& event) { append(out, event); });
    if (next != Generation::Next::kDone) return next == Generation::Next::kIdle;
    if (call.include_usage) {
      Totals totals;
      for (size_t i = 0; i < generation.sources(); ++i) {
        const Usage& usage = generation.usage(i);
        totals.prompt += usage.prompt_tokens;
        totals.cached += usage.cached_tokens;
        totals.generated += usage.generated_tokens;
      }
      chunks.usage(out, totals);
    }
    out += "data: [DONE]\n\n";
    return false;
  } catch (const RequestError& failed) {
    service.metrics->request_failed("generation");
    append_stream_error(out, call, failed.what());
    out += "data: [DONE]\n\n";
    return false;
  }

  void open(std::string& out) {
    if (call.chat ? call.manner == Manner::kTgi : !call.echo) return;
    for (size_t i = 0; i < choices.size(); ++i)
      chunks.opening(out, static_cast<int32_t>(i), call.echo ? call.prompts[i / static_cast<size_t>(call.n)] : "");
  }

  void append(std::string& out, Event& event) {
    const bool finished = event.finish != FinishReason::kNone;
    if (finished) service.metrics->finish_reason(event.finish);
    const int32_t index = event.source * call.n + event.choice;
    Choice& choice = choices[static_cast<size_t>(index)];
    if (tells_reasoning(call, event.reasoning)) chunks.reasoning(out, index, event.reasoning);
    so_far.generated += event.index - std::exchange(choice.tokens, event.index);
    if (choice.held) {
      choice.text += event.text;
      if (!finished && may_be_call(choice.text)) return;
      const auto calls = finished ? find_calls(call.tools, choice.text) : std::vector<ToolCall>();
      if (!calls.empty()) return chunks.calls(out, index, calls);
      choice.held = false;
      event.text = std::move(choice.text);
    }
    // Part of a character, or of a possible stop string: nothing to say yet.
    if (event.text.empty() && !finished && !call.logprobs && !call.token_ids) return;
    chunks.piece(out, index, event, choice.offset, so_far);
    if (call.logprobs) choice.offset += utf8_length(event.token.text);
  }

  struct Choice {
    int64_t offset = 0;  // characters of its tokens' text so far
    int32_t tokens = 0;
    bool held = false;  // the text may be a call: it waits until that is known
    std::string text;
  };
  const Service& service;
  Call call;
  Chunks chunks;
  Generation generation;
  std::vector<Event> events;
  std::vector<Choice> choices;
  Totals so_far;
  bool opened = false;
};

}  // namespace

void answer(const HttpRequest& http, Reply& reply, const Service& service, Call call) {
  service.metrics->validated(monotonic_seconds() - http.arrived);
  if (!call.stream) return answer_whole(http, reply, service, std::move(call));
  auto state = std::make_shared<Stream>(http, service, reply, std::move(call));
  for (const GenerateRequest& request : state->call.requests) state->generation.start(request);
  reply.headers.add("content-type", "text/event-stream");
  reply.headers.add("cache-control", "no-cache");
  reply.headers.add("x-accel-buffering", "no");
  reply.stream = [state](std::string& out) { return state->produce(out); };
  reply.keep_alive = kKeepAlive;
}

}  // namespace sluice::openai
