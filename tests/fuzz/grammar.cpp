// SPDX-License-Identifier: Apache-2.0
// What an answer must look like: 's' schema, 'r' regular expression, 'e' EBNF, 'c' choice; NUL; bytes that pick the
// tokens. From every place a token may come, and whatever came, the answer can end within its tokens.
#include <bit>

#include "fuzz/fuzz.h"
#include "grammar/automaton.h"
#include "grammar/runtime.h"
#include "grammar/vocabularies.h"

using namespace sluice;
using namespace sluice::grammar;

namespace {
GrammarSpec::Kind kind_of(uint8_t byte) {
  using Kind = GrammarSpec::Kind;
  return byte == 's' ? Kind::kJsonSchema : byte == 'r' ? Kind::kRegex : byte == 'e' ? Kind::kEbnf : Kind::kChoice;
}

// The `nth` token that the mask allows, counted around.
int32_t pick(std::span<const uint32_t> mask, unsigned nth) {
  unsigned allowed = 0;
  for (const uint32_t word : mask) allowed += static_cast<unsigned>(std::popcount(word));
  fuzz::demand(allowed > 0, "no token may come");
  nth %= allowed;
  for (int32_t id = 0;; ++id)
    if (test::allows(mask, id) && nth-- == 0) return id;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const auto vocabulary = test::small_vocabulary();
  std::string_view picks = fuzz::text_of(data + 1, size - 1);
  const std::string text(fuzz::take_part(picks));
  picks = picks.substr(0, 64);
  fuzz::accepts([&] {
    const auto runtime = test::runtime_of(kind_of(data[0]), text, vocabulary);
    const uint32_t least = runtime->left(Runtime::kStart);
    fuzz::demand(least != kUnreachable, "a grammar without an end was accepted");
    if (least > 4096) return;
    Matcher matcher(runtime);
    std::string answer;
    // Where the picks end, the way to an end is short: every answer takes what is left of its tokens.
    int64_t tokens = static_cast<int64_t>(least) + 1 + static_cast<int64_t>(picks.size());
    for (size_t i = 0; !matcher.ended(); ++i, --tokens) {
      fuzz::demand(tokens > 0, "an answer does not end within its tokens");
      const int32_t token = pick(matcher.mask(tokens), i < picks.size() ? static_cast<uint8_t>(picks[i]) : 0);
      if (token != test::kEnd) answer += vocabulary->text(token);
      matcher.accept(token);
    }
    fuzz::demand(runtime->accepts(runtime->advance(Runtime::kStart, answer)), "an answer that ended is not complete");
  });
  return 0;
}
