// SPDX-License-Identifier: Apache-2.0
// A position in a template's tokens, with the questions a parser asks there.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/template_lexer.h"

namespace sluice {

class TokenCursor {
 protected:
  using Token = TemplateToken;
  using TokenKind = TemplateToken::Kind;
  explicit TokenCursor(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  [[noreturn]] void fail(std::string_view what) const;  // throws Error "line N: what"
  const Token& peek() const { return tokens_[at_]; }
  const Token& after() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }  // the token after peek()
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is_op(std::string_view op) const { return peek().kind == TokenKind::kOperator && peek().text == op; }
  bool is_name(std::string_view name) const { return peek().kind == TokenKind::kName && peek().text == name; }
  bool skip_op(std::string_view op) { return is_op(op) && (next(), true); }
  bool skip_name(std::string_view name) { return is_name(name) && (next(), true); }
  std::string found() const;  // the token here, in words
  void expect_op(std::string_view op);
  std::string expect_name();
  void expect_block_end();

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace sluice
