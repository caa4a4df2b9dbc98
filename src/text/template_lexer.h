// SPDX-License-Identifier: Apache-2.0
// Template text to tokens, with Jinja's trim_blocks and lstrip_blocks applied to the text between tags.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/value.h"

namespace sluice {

struct TemplateToken {
  enum class Kind { kText, kPrintBegin, kPrintEnd, kBlockBegin, kBlockEnd, kName, kString, kNumber, kOperator, kEnd };
  Kind kind;
  std::string text;  // of kText, kName, kString (unescaped) and kOperator
  Value value;       // of kNumber
  int line;
};

// Throws Error "line N: ...".
std::vector<TemplateToken> lex_template(std::string_view source);

}  // namespace sluice
