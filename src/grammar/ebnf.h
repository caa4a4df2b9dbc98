// SPDX-License-Identifier: Apache-2.0
// Grammars as rules `name ::= alternatives`: "text", [classes], (groups), names, `|`, and * + ? {m,n} behind a part;
// `.` is any character, # starts a comment. The start is `root`, else the first rule.
#pragma once

#include <string_view>

#include "grammar/expression.h"

namespace sluice::grammar {

Expr parse_ebnf(Builder& builder, std::string_view text);

}  // namespace sluice::grammar
