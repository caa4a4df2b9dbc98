// SPDX-License-Identifier: Apache-2.0
#include "text/template_cursor.h"

#include <fmt/format.h>

#include "base/error.h"

namespace sluice {

void TokenCursor::fail(std::string_view what) const { throw Error(fmt::format("line {}: {}", peek().line, what)); }

std::string TokenCursor::found() const {
  switch (peek().kind) {
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kBlockEnd:
      return "the end of the statement";
    case TokenKind::kPrintEnd:
      return "the end of the print statement";
    default:
      return "'" + peek().text + "'";
  }
}

void TokenCursor::expect_op(std::string_view op) {
  if (!skip_op(op)) fail(fmt::format("expected '{}', found {}", op, found()));
}

std::string TokenCursor::expect_name() {
  if (peek().kind != TokenKind::kName) fail(fmt::format("expected a name, found {}", found()));
  return next().text;
}

void TokenCursor::expect_block_end() {
  if (peek().kind != TokenKind::kBlockEnd) fail(fmt::format("expected the end of the statement, found {}", found()));
  next();
}

}  // namespace sluice
