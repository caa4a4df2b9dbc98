// SPDX-License-Identifier: Apache-2.0
// A request in the engine and its choices. Threads share a Request through shared_ptr; each field says who touches it.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "sample/stop.h"
#include "schedule/sequence.h"
#include "text/channels.h"
#include "text/detokenizer.h"

namespace sluice {

struct Request;

// What a Delta says, kept until the best choices are known.
struct KeptDelta {
  int32_t index;
  std::string text, reasoning;
  TokenInfo token;
  FinishReason finish;
  std::string stop_text;
  int32_t stop_id;
};

struct Choice {
  // continues: the text goes on from the prompt's, rather than beginning anew.
  Choice(Request& owner, int32_t number, const Tokenizer& tokenizer, bool continues);

  Request& request;
  const int32_t number;

  // Leader thread.
  bool ended = false;  // the scheduler knows it no more

  // Output thread.
  Detokenizer detokenizer;
  StopMatcher stops;
  std::optional<ChannelReader> channels;
  bool finished = false;
  int32_t n_tokens = 0;
  double sum_logprobs = 0;
  std::string piece, text, reasoning;  // of the newest token: as decoded, and as certain
  std::vector<KeptDelta> kept;
};

struct Request : std::enable_shared_from_this<Request> {
  // Constant after submit().
  uint64_t id = 0;
  GenerateRequest ask;
  std::shared_ptr<Sink> sink;
  double submitted = 0;  // monotonic seconds
  SequenceSpec spec;     // moved into the scheduler by the leader

  std::atomic<bool> silent{false};  // ended: the sink hears nothing more

  // Leader thread.
  SequenceId first_sequence = 0;
  int32_t live = 0;  // choices that have not ended
  size_t place = 0;  // in the leader's list

  // Output thread.
  std::vector<std::unique_ptr<Choice>> choices;  // the list itself is constant
  int32_t unfinished = 0;
  bool prompt_sent = false;
  std::vector<TokenInfo> prompt;
  Usage usage;
  double started = 0, first_token = 0, last_token = 0;  // monotonic seconds, 0: not yet
};

// The text and the end of one token; true when the choice ends with it. Called once per generated token, in order.
struct Advance {
  FinishReason finish = FinishReason::kNone;
  std::string_view stop_text;  // into the request
  int32_t stop_id = -1;
};
Advance advance(Choice& choice, int32_t token, SequenceEnd end);

}  // namespace sluice
