// SPDX-License-Identifier: Apache-2.0
// Regular expressions in the syntax that Python and ECMAScript share. Refused by name: look-around, back-references,
// word borders, inline flags, anchors other than at the ends.
#pragma once

#include <string_view>

#include "grammar/expression.h"

namespace sluice::grammar {

struct RegexStyle {
  bool json = false;    // the text is the content of a JSON string: characters are escaped as needed
  bool search = false;  // a match anywhere suffices, unless ^ or $ says otherwise; else the whole text matches
};

// \d \w \s mean their ASCII characters, and their negations the other ASCII characters: a part of what every engine
// takes. Throws RequestError(kValidation) with the place.
Expr parse_regex(Builder& builder, std::string_view pattern, RegexStyle style);

}  // namespace sluice::grammar
