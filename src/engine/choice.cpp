// SPDX-License-Identifier: Apache-2.0
#include "engine/choice.h"

namespace sluice {
namespace {
bool in_channels(const GenerateRequest& ask) { return ask.channels && ask.grammar.kind == GrammarSpec::Kind::kNone; }

Advance advance_text(Choice& choice, int32_t token, SequenceEnd end) {
  const GenerateRequest& ask = choice.request.ask;
  choice.piece.clear();
  choice.text.clear();
  // An end-of-sequence token is left to skip_special, and is none of what is said in channels; a stop id counts as stop
  // text.
  const bool said = end == SequenceEnd::kEos ? !choice.channels : end != SequenceEnd::kStopId || ask.keep_stop_text;
  if (said) choice.detokenizer.append(token, choice.piece);
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
}  // namespace

Choice::Choice(Request& owner, int32_t number_, const Tokenizer& tokenizer, bool continues)
    : request(owner),
      number(number_),
      detokenizer(tokenizer, owner.ask.skip_special && !in_channels(owner.ask),
                  continues ? std::span<const int32_t>(owner.ask.prompt) : std::span<const int32_t>{}),
      stops(owner.ask.stop, owner.ask.keep_stop_text) {
  if (in_channels(owner.ask)) channels.emplace();
}

Advance advance(Choice& choice, int32_t token, SequenceEnd end) {
  const Advance result = advance_text(choice, token, end);
  if (!choice.channels) return result;
  choice.piece.swap(choice.text);
  choice.text.clear();
  choice.reasoning.clear();
  choice.channels->read(choice.piece, result.finish != FinishReason::kNone, choice.text, choice.reasoning);
  return result;
}

}  // namespace sluice
