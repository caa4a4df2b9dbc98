// SPDX-License-Identifier: Apache-2.0
// How requests say what the answer must look like, in every spelling:
//   response_format      OpenAI and TGI: {"type": "text" | "json_object" | "json_schema" | "json" | "regex",
//                        "json_schema": {"schema"} or "value"}
//   guided_json (object or text), guided_regex, guided_choice, guided_grammar: vLLM
//   structured_outputs   vLLM: {"json" | "regex" | "choice" | "grammar" | "json_object"}
//   grammar              TGI: {"type": "json" | "json_object" | "regex" | "json_schema", "value"}
//   format               Ollama: "json", or a schema
#pragma once

#include <span>
#include <string_view>

#include "engine/request.h"
#include "text/value.h"

namespace sluice {

std::span<const std::string_view> grammar_field_names();
// False when the name is none of them. null and "" ask for nothing. Sets request.grammar; the engine compiles it in
// submit(), which throws RequestError(kValidation) with param() == kGrammarParam for what is not supported: dialects
// answer 422. Throws RequestError(kValidation) naming the field when it is malformed or a second one is given.
bool read_grammar_field(std::string_view name, const Value& value, GenerateRequest& request);
// An answer that is one of `texts`.
GrammarSpec choice_grammar(const std::vector<std::string>& texts);

inline constexpr const char* kGrammarParam = "grammar";

}  // namespace sluice
