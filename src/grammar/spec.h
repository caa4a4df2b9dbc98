// SPDX-License-Identifier: Apache-2.0
// What an answer must look like, as plain text.
#pragma once

#include <cstdint>
#include <string>

namespace sluice {

struct GrammarSpec {
  enum class Kind : uint8_t {
    kNone,
    kJsonObject,  // any JSON object; no text
    kJsonSchema,  // text: the schema
    kRegex,       // text: a pattern that the whole answer matches
    kChoice,      // text: a JSON list of strings
    kEbnf,        // text: rules `name ::= ...`, the first or `root` is the start
  };
  Kind kind = Kind::kNone;
  std::string text;
};

}  // namespace sluice
