// SPDX-License-Identifier: Apache-2.0
#include "text/template_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "base/error.h"
#include "text/template_builtins.h"
#include "text/template_cursor.h"

namespace sluice {
namespace {

class Parser : TokenCursor {
 public:
  explicit Parser(std::string_view source) : TokenCursor(lex_template(source)) {}
  Body run() {
    Body body = statements({});
    if (peek().kind != TokenKind::kEnd) fail("unexpected end tag");
    return body;
  }

 private:
  static constexpr int kMaxDepth = 150, kMaxChain = 500;
  struct Deeper {
    Parser& parser;
    explicit Deeper(Parser& p) : parser(p) {
      if (++p.depth_ > kMaxDepth) p.fail("nested too deeply");
    }
    ~Deeper() { --parser.depth_; }
  };

  ExprPtr make(Expr::Kind kind, std::string name = {}) {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = peek().line;
    expr->name = std::move(name);
    return expr;
  }
  ExprPtr make(Expr::Kind kind, std::string name, ExprPtr a, ExprPtr b = nullptr) {
    ExprPtr expr = make(kind, std::move(name));
    expr->depth = 1 + std::max(a ? a->depth : 0, b ? b->depth : 0);
    if (expr->depth > kMaxChain) fail("expression is too long");  // trees are walked and freed by recursion
    expr->args.push_back(std::move(a));
    if (b) expr->args.push_back(std::move(b));
    return expr;
  }

  // Statements.

  // Up to one of the end tags, whose "{%" and name are left consumed; end_ holds the name.
  Body statements(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    Body body;
    for (;;) {
      const Token& token = peek();
      if (token.kind == TokenKind::kEnd) {
        if (ends.size() > 0) fail(fmt::format("unexpected end of template, expected '{}'", *ends.begin()));
        return body;
      }
      auto stmt = std::make_unique<Stmt>();
      stmt->line = token.line;
      if (token.kind == TokenKind::kText) {
        stmt->text = next().text;
      } else if (token.kind == TokenKind::kPrintBegin) {
        next();
        stmt->kind = Stmt::Kind::kPrint;
        stmt->expr = tuple();
        if (peek().kind != TokenKind::kPrintEnd)
          fail(fmt::format("expected the end of the print statement, found {}", found()));
        next();
      } else {
        next();
        end_ = expect_name();
        if (std::find(ends.begin(), ends.end(), end_) != ends.end()) return body;
        statement(end_, *stmt);
      }
      body.push_back(std::move(stmt));
    }
  }
  Body block(std::initializer_list<std::string_view> ends) {
    expect_block_end();
    return statements(ends);
  }

  void statement(const std::string& tag, Stmt& stmt) {
    if (tag == "if") return if_tag(stmt);
    if (tag == "for") return for_tag(stmt);
    if (tag == "set") return set_tag(stmt);
    if (tag == "macro") return macro_tag(stmt);
    if (tag == "call") return call_tag(stmt);
    if (tag == "filter") {
      stmt.kind = Stmt::Kind::kFilterBlock;
      stmt.expr = filters(nullptr, true);
      stmt.body = block({"endfilter"});
    } else if (tag == "with") {
      stmt.kind = Stmt::Kind::kWith;
      while (peek().kind != TokenKind::kBlockEnd) {
        if (!stmt.bindings.empty()) expect_op(",");
        ExprPtr target = assign_target(false);
        expect_op("=");
        stmt.bindings.emplace_back(std::move(target), expression());
      }
      stmt.body = block({"endwith"});
    } else if (tag == "generation") {
      stmt.kind = Stmt::Kind::kGroup;
      stmt.body = block({"endgeneration"});
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) fail(fmt::format("'{}' outside a loop", tag));
      stmt.kind = tag == "break" ? Stmt::Kind::kBreak : Stmt::Kind::kContinue;
    } else {
      fail(fmt::format("tag '{}' is not supported here", tag));
    }
    expect_block_end();
  }

  void if_tag(Stmt& stmt) {
    stmt.kind = Stmt::Kind::kIf;
    stmt.expr = tuple(false);
    stmt.body = block({"elif", "else", "endif"});
    if (end_ == "elif") {
      const Deeper deeper(*this);
      auto inner = std::make_unique<Stmt>();
      inner->line = peek().line;
      if_tag(*inner);
      stmt.other.push_back(std::move(inner));
      return;
    }
    if (end_ == "else") stmt.other = block({"endif"});
    expect_block_end();
  }

  void for_tag(Stmt& stmt) {
    stmt.kind = Stmt::Kind::kFor;
    stmt.target = assign_target(false);
    if (!skip_name("in")) fail(fmt::format("expected 'in', found {}", found()));
    stmt.expr = tuple(false);
    if (skip_name("if")) stmt.test = expression();
    if (is_name("recursive")) fail("recursive loops are not supported");
    ++loops_;
    stmt.body = block({"else", "endfor"});
    --loops_;
    if (end_ == "else") stmt.other = block({"endfor"});
    expect_block_end();
  }

  void set_tag(Stmt& stmt) {
    stmt.kind = Stmt::Kind::kSet;
    stmt.target = assign_target(true);
    if (skip_op("=")) {
      stmt.expr = tuple();
    } else {
      if (is_op("|")) stmt.expr = filters(nullptr, false);
      stmt.text = "block";
      stmt.body = block({"endset"});
    }
    expect_block_end();
  }

  std::vector<Parameter> parameters() {
    std::vector<Parameter> list;
    expect_op("(");
    while (!is_op(")")) {
      if (!list.empty()) expect_op(",");
      Parameter parameter{expect_name(), nullptr};
      if (skip_op("=")) {
        parameter.fallback = expression();
      } else if (!list.empty() && list.back().fallback) {
        fail("a parameter without a default follows one with a default");
      }
      list.push_back(std::move(parameter));
    }
    expect_op(")");
    return list;
  }

  void macro_body(Stmt& stmt, std::string_view end) {
    macros_.push_back(&stmt);
    const int loops = std::exchange(loops_, 0);
    stmt.body = block({end});
    loops_ = loops;
    macros_.pop_back();
    expect_block_end();
  }
  void macro_tag(Stmt& stmt) {
    stmt.kind = Stmt::Kind::kMacro;
    stmt.text = expect_name();
    stmt.parameters = parameters();
    macro_body(stmt, "endmacro");
  }
  void call_tag(Stmt& stmt) {
    stmt.kind = Stmt::Kind::kCall;
    if (is_op("(")) stmt.parameters = parameters();
    stmt.expr = expression();
    if (stmt.expr->kind != Expr::Kind::kCall) fail("expected a call");
    macro_body(stmt, "endcall");
  }

  ExprPtr assign_target(bool allow_attribute) {
    const auto one = [&] {
      ExprPtr target = make(Expr::Kind::kName, expect_name());
      if (allow_attribute && skip_op(".")) {
        ExprPtr attribute = make(Expr::Kind::kAttribute, expect_name(), std::move(target));
        return attribute;
      }
      return target;
    };
    if (skip_op("(")) {
      ExprPtr inner = assign_target(false);
      expect_op(")");
      return inner;
    }
    ExprPtr first = one();
    if (!is_op(",")) return first;
    ExprPtr tuple = make(Expr::Kind::kTuple, "", std::move(first));
    while (skip_op(",")) {
      if (peek().kind == TokenKind::kOperator || is_name("in")) break;
      tuple->args.push_back(one());
    }
    return tuple;
  }

  // Expressions, loosest first.

  ExprPtr tuple(bool with_condition = true) {
    ExprPtr first = with_condition ? expression() : or_expr();
    if (!is_op(",")) return first;
    ExprPtr list = make(Expr::Kind::kTuple, "", std::move(first));
    while (skip_op(",")) {
      if (peek().kind == TokenKind::kPrintEnd || peek().kind == TokenKind::kBlockEnd || is_op(")")) break;
      list->args.push_back(with_condition ? expression() : or_expr());
    }
    return list;
  }

  ExprPtr expression() {
    const Deeper deeper(*this);
    ExprPtr value = or_expr();
    while (skip_name("if")) {
      ExprPtr test = or_expr();
      ExprPtr condition = make(Expr::Kind::kCondition, "", std::move(value), std::move(test));
      condition->args.push_back(skip_name("else") ? expression() : nullptr);
      value = std::move(condition);
    }
    return value;
  }
  ExprPtr or_expr() {
    ExprPtr left = and_expr();
    while (skip_name("or")) left = make(Expr::Kind::kBinary, "or", std::move(left), and_expr());
    return left;
  }
  ExprPtr and_expr() {
    ExprPtr left = not_expr();
    while (skip_name("and")) left = make(Expr::Kind::kBinary, "and", std::move(left), not_expr());
    return left;
  }
  ExprPtr not_expr() {
    const Deeper deeper(*this);
    if (skip_name("not")) return make(Expr::Kind::kUnary, "not", not_expr());
    return compare();
  }
  ExprPtr compare() {
    ExprPtr left = sum();
    ExprPtr chain;
    for (;;) {
      std::string op;
      for (const char* candidate : {"==", "!=", "<", "<=", ">", ">="}) {
        if (is_op(candidate)) op = candidate;
      }
      if (is_name("in")) op = "in";
      if (is_name("not") && after().kind == TokenKind::kName && after().text == "in") {
        next();
        op = "not in";
      }
      if (op.empty()) return chain ? std::move(chain) : std::move(left);
      next();
      if (!chain) chain = make(Expr::Kind::kCompare, "", std::move(left));
      chain->names.push_back(op);
      chain->args.push_back(sum());
    }
  }
  ExprPtr binary(std::initializer_list<const char*> ops, ExprPtr (Parser::*operand)()) {
    ExprPtr left = (this->*operand)();
    for (;;) {
      const char* op = nullptr;
      for (const char* candidate : ops) {
        if (is_op(candidate)) op = candidate;
      }
      if (op == nullptr) return left;
      next();
      left = make(Expr::Kind::kBinary, op, std::move(left), (this->*operand)());
    }
  }
  ExprPtr sum() { return binary({"+", "-"}, &Parser::concat); }
  ExprPtr concat() { return binary({"~"}, &Parser::product); }
  ExprPtr product() { return binary({"*", "/", "//", "%"}, &Parser::power); }
  ExprPtr power() { return binary({"**"}, &Parser::filtered_unary); }
  ExprPtr filtered_unary() { return unary(true); }

  ExprPtr unary(bool with_filter) {
    const Deeper deeper(*this);
    ExprPtr value;
    if (skip_op("-")) {
      value = make(Expr::Kind::kUnary, "-", unary(false));
    } else if (skip_op("+")) {
      value = make(Expr::Kind::kUnary, "+", unary(false));
    } else {
      value = primary();
    }
    value = postfix(std::move(value));
    return with_filter ? filters(std::move(value), false) : std::move(value);
  }

  ExprPtr constant(Value value) {
    ExprPtr expr = make(Expr::Kind::kConstant);
    expr->value = std::move(value);
    return expr;
  }

  ExprPtr primary() {
    const Token token = peek();
    switch (token.kind) {
      case TokenKind::kName:
        next();
        if (token.text == "true" || token.text == "True") return constant(true);
        if (token.text == "false" || token.text == "False") return constant(false);
        if (token.text == "none" || token.text == "None") return constant(nullptr);
        for (Stmt* macro : macros_) {
          macro->uses_varargs |= token.text == "varargs";
          macro->uses_kwargs |= token.text == "kwargs";
          macro->uses_caller |= token.text == "caller";
        }
        return make(Expr::Kind::kName, token.text);
      case TokenKind::kString: {
        std::string text;
        while (peek().kind == TokenKind::kString) text += next().text;
        return constant(Value(std::move(text)));
      }
      case TokenKind::kNumber:
        next();
        return constant(token.value);
      default:
        break;
    }
    if (skip_op("(")) {
      if (skip_op(")")) return make(Expr::Kind::kTuple);
      ExprPtr inner = tuple();
      expect_op(")");
      return inner;
    }
    if (skip_op("[")) {
      ExprPtr list = make(Expr::Kind::kList);
      while (!is_op("]")) {
        if (!list->args.empty()) expect_op(",");
        if (is_op("]")) break;
        list->args.push_back(expression());
      }
      next();
      return list;
    }
    if (skip_op("{")) {
      ExprPtr dict = make(Expr::Kind::kDict);
      while (!is_op("}")) {
        if (!dict->args.empty()) expect_op(",");
        if (is_op("}")) break;
        dict->args.push_back(expression());
        expect_op(":");
        dict->args.push_back(expression());
      }
      next();
      return dict;
    }
    fail(fmt::format("expected an expression, found {}", found()));
  }

  ExprPtr postfix(ExprPtr value) {
    for (;;) {
      if (skip_op(".")) {
        if (peek().kind == TokenKind::kNumber && peek().value.is_int()) {
          value = make(Expr::Kind::kItem, "", std::move(value), constant(next().value));
        } else {
          value = make(Expr::Kind::kAttribute, expect_name(), std::move(value));
        }
      } else if (skip_op("[")) {
        value = subscript(std::move(value));
      } else if (is_op("(")) {
        value = call(std::move(value));
      } else {
        return value;
      }
    }
  }

  ExprPtr subscript(ExprPtr object) {
    ExprPtr parts[3];
    bool slice = false;
    size_t part = 0;
    for (; part < 3; ++part) {
      if (!is_op(":") && !is_op("]")) parts[part] = part == 0 ? tuple() : expression();
      if (!skip_op(":")) break;
      slice = true;
    }
    expect_op("]");
    if (!slice) {
      if (!parts[0]) fail("expected a subscript");
      return make(Expr::Kind::kItem, "", std::move(object), std::move(parts[0]));
    }
    ExprPtr expr = make(Expr::Kind::kSlice, "", std::move(object));
    for (ExprPtr& p : parts) expr->args.push_back(std::move(p));
    return expr;
  }

  ExprPtr call(ExprPtr callee) {
    ExprPtr expr = make(Expr::Kind::kCall, "", std::move(callee));
    arguments(*expr);
    return expr;
  }
  void arguments(Expr& expr) {
    expect_op("(");
    for (bool first = true; !is_op(")"); first = false) {
      if (!first) expect_op(",");
      if (is_op(")")) break;
      if (is_op("*") || is_op("**")) fail("unpacking arguments with * or ** is not supported");
      if (peek().kind == TokenKind::kName && after().kind == TokenKind::kOperator && after().text == "=") {
        std::string name = next().text;
        next();
        expr.named.emplace_back(std::move(name), expression());
      } else {
        if (!expr.named.empty()) fail("positional argument after a named one");
        expr.args.push_back(expression());
      }
    }
    next();
  }

  ExprPtr filters(ExprPtr value, bool bare) {
    for (;;) {
      if (bare || skip_op("|")) {
        bare = false;
        ExprPtr filter = make(Expr::Kind::kFilter, expect_name(), std::move(value));
        if (!is_template_filter(filter->name)) fail(fmt::format("no filter named '{}'", filter->name));
        if (is_op("(")) arguments(*filter);
        value = std::move(filter);
      } else if (value && skip_name("is")) {
        value = test(std::move(value));
      } else if (value && is_op("(")) {
        value = call(std::move(value));
      } else {
        return value;
      }
    }
  }

  ExprPtr test(ExprPtr value) {
    const bool negated = skip_name("not");
    ExprPtr expr = make(Expr::Kind::kTest, expect_name(), std::move(value));
    if (!is_template_test(expr->name)) fail(fmt::format("no test named '{}'", expr->name));
    const bool operand = peek().kind == TokenKind::kString || peek().kind == TokenKind::kNumber || is_op("[") ||
                         is_op("{") ||
                         (peek().kind == TokenKind::kName && !is_name("else") && !is_name("or") && !is_name("and") &&
                          !is_name("if") && !is_name("is"));
    if (is_op("(")) {
      arguments(*expr);
    } else if (operand) {
      expr->args.push_back(postfix(primary()));
    }
    return negated ? make(Expr::Kind::kUnary, "not", std::move(expr)) : std::move(expr);
  }

  std::string end_;
  int depth_ = 0, loops_ = 0;
  std::vector<Stmt*> macros_;
};

}  // namespace

Body parse_template(std::string_view source) { return Parser(source).run(); }

}  // namespace sluice
