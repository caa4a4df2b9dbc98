// SPDX-License-Identifier: Apache-2.0
// JSON schemas as expressions. docs/compatibility.md lists the keywords; any other is refused by name. What is accepted
// may be narrower than the schema, never wider: properties come in the schema's order, numbers have at most 15 digits.
#pragma once

#include <string_view>

#include "grammar/expression.h"

namespace sluice::grammar {

Expr parse_json_schema(Builder& builder, std::string_view text);
Expr parse_choice(Builder& builder, std::string_view text);  // a JSON list of strings

}  // namespace sluice::grammar
