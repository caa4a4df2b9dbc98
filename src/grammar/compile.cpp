// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "base/error.h"
#include "grammar/automaton.h"
#include "grammar/ebnf.h"
#include "grammar/json_parts.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"

namespace sluice::grammar {
namespace {

constexpr size_t kMaxBytes = 1u << 18;

Expr parse(Builder& builder, const GrammarSpec& spec) {
  using Kind = GrammarSpec::Kind;
  switch (spec.kind) {
    case Kind::kJsonObject:
      return JsonParts(builder).object();
    case Kind::kJsonSchema:
      return parse_json_schema(builder, spec.text);
    case Kind::kRegex:
      return parse_regex(builder, spec.text, {});
    case Kind::kChoice:
      return parse_choice(builder, spec.text);
    case Kind::kEbnf:
      return parse_ebnf(builder, spec.text);
    case Kind::kNone:
      break;
  }
  fatal("a grammar of no kind");
}

}  // namespace

std::shared_ptr<const Automaton> compile(const GrammarSpec& spec, const Vocabulary& vocabulary) {
  if (spec.text.size() > kMaxBytes)
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("the grammar has {} bytes; at most {} are taken", spec.text.size(), kMaxBytes),
                       "grammar");
  Builder builder;
  const Expr start = parse(builder, spec);
  return std::make_shared<Automaton>(builder, start, vocabulary);
}

}  // namespace sluice::grammar
