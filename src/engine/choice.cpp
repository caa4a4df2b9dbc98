// SPDX-License-Identifier: Apache-2.0
#include "engine/choice.h"

namespace sluice {

Choice::Choice(Request& owner, int32_t number_, const Tokenizer& tokenizer, bool continues)
    : request(owner),
      number(number_),
      detokenizer(tokenizer, owner.ask.skip_special,
                  continues ? std::span<const int32_t>(owner.ask.prompt) : std::span<const int32_t>{}),
      stops(owner.ask.stop, owner.ask.keep_stop_text) {}

Advance advance(Choice& choice, int32_t token, SequenceEnd end) {
  const GenerateRequest& ask = choice.request.ask;
  choice.piece.clear();
  choice.text.clear();
  // An end-of-sequence token is left to skip_special; a stop id counts as stop text.
  if (end != SequenceEnd::kStopId || ask.keep_stop_text) choice.detokenizer.append(token, choice.piece);
  if (end != SequenceEnd::kNone) choice.detokenizer.finish(choice.piece);

  Advance result;
  if (choice.stops.feed(choice.piece, choice.text)) {
    result.finish = FinishReason::kStop;
    result.stop_text = ask.stop[static_cast<size_t>(choice.stops.matched())];
    return result;
  }
  if (end == SequenceEnd::kNone) return result;
  choice.stops.finish(choice.text);
  result.finish = end == SequenceEnd::kLength ? FinishReason::kLength
                  : end == SequenceEnd::kEos  ? FinishReason::kEos
                                              : FinishReason::kStop;
  if (end == SequenceEnd::kStopId) result.stop_id = token;
  return result;
}

}  // namespace sluice
