// SPDX-License-Identifier: Apache-2.0
// Whole requests to any dialect: a line "METHOD PATH [bytes of JSON before binary tensors]", then the body. Every one
// is answered or refused in words, streams end, and what reaches the engine is sound.
#include <charconv>

#include "api/dialect.h"
#include "api/metrics.h"
#include "fuzz/service.h"

using namespace sluice;

namespace {
// Answers at once, with two letters for each choice.
uint64_t answer(const GenerateRequest& request, Sink& sink) {
  fuzz::demand_sound(request);
  fuzz::demand(request.n <= 128, "more choices than any dialect allows");
  TokenInfo token;
  token.id = 'a';
  token.text = "a";
  for (int32_t i = 0; i < request.sampling.n_logprobs; ++i) token.top.push_back({i, -1.0f, 0, false, "b", {}});
  if (request.prompt_logprobs >= 0) {
    TokenInfo scored = token;
    scored.top.resize(static_cast<size_t>(request.prompt_logprobs));
    sink.on_prompt(std::vector<TokenInfo>(request.prompt.size(), scored));
  }
  for (int32_t index = 1; index <= 2; ++index) {
    for (int32_t choice = 0; choice < request.n; ++choice) {
      Delta delta;
      delta.choice = choice;
      delta.index = index;
      delta.text = "a";
      if (request.want_tokens) delta.token = &token;
      if (index == 2) delta.finish = FinishReason::kEos;
      sink.on_delta(delta);
    }
  }
  Usage usage;
  usage.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  usage.generated_tokens = 2 * request.n;
  sink.on_done(usage);
  return 1;
}

const Service& whole_service() {
  static Metrics metrics;
  static const Service service = [] {
    Service s = fuzz::service();
    s.submit = [](const GenerateRequest& request, const std::shared_ptr<Sink>& sink) { return answer(request, *sink); };
    s.cancel = [](uint64_t) {};
    s.stats = [] { return EngineStats{}; };
    s.metrics = &metrics;
    return s;
  }();
  return service;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Router router(dialects());
  const std::string_view input = fuzz::text_of(data, size);
  const size_t line_end = std::min(input.find('\n'), input.size());
  std::string_view line = input.substr(0, line_end);
  const auto word = [&] {
    const size_t end = std::min(line.find(' '), line.size());
    const std::string out(line.substr(0, end));
    line.remove_prefix(std::min(end + 1, line.size()));
    return out;
  };
  HttpRequest request = fuzz::json_request(input.substr(std::min(line_end + 1, input.size())));
  request.method = word();
  request.path = word();
  if (!line.empty()) request.headers.add("inference-header-content-length", word());
  const Router::Match match = router.find(request);
  if (match.route == nullptr) return 0;
  request.arguments = match.arguments;
  Reply reply;
  const auto fail = [&](const RequestError& error) {
    fuzz::demand(error.what()[0] != '\0', "a refusal without words");
    reply = Reply();
    match.dialect->error({error.kind(), error.what(), error.param(), 0}, request, reply);
    fuzz::demand(reply.status >= 400 && !reply.body.empty(), "a refusal without status or body");
  };
  try {
    match.route->handler(request, reply, {ServerState::kReady, &whole_service()});
    std::string out;
    for (int pieces = 0; reply.stream && reply.stream(out); out.clear())
      fuzz::demand(++pieces < 100000, "a stream does not end");
  } catch (const RequestError& error) {
    fail(error);
  }
  fuzz::demand(reply.status >= 200 && reply.status < 600, "an answer without a status");
  return 0;
}
