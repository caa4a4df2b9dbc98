// SPDX-License-Identifier: Apache-2.0
// Syntax tree of a chat template. Immutable after parsing, owned by its ChatTemplate.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/value.h"

namespace sluice {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct Expr {
  enum class Kind {
    kConstant,   // value
    kName,       // name
    kList,       // args
    kTuple,      // args
    kDict,       // args: key, value, key, value, ...
    kAttribute,  // args[0] . name
    kItem,       // args[0] [ args[1] ]
    kSlice,      // args[0] [ args[1] : args[2] : args[3] ], each but the first may be null
    kCall,       // args[0] ( args[1..], named )
    kFilter,     // args[0] | name ( args[1..], named ); args[0] null inside a filter block
    kTest,       // args[0] is name ( args[1..] )
    kUnary,      // name: - + not
    kBinary,     // name: + - * / // % ** ~ and or
    kCompare,    // args[0] names[0] args[1] names[1] args[2] ...
    kCondition,  // args[0] if args[1] else args[2], which may be null
  };
  Kind kind = Kind::kConstant;
  int line = 0;
  int depth = 1;  // of operators, calls and filters below, this one included
  std::string name;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::string> names;
  std::vector<std::pair<std::string, ExprPtr>> named;
};

struct Parameter {
  std::string name;
  ExprPtr fallback;  // null: none
};

struct Stmt {
  enum class Kind {
    kText,         // text
    kPrint,        // expr
    kIf,           // expr, body, other
    kFor,          // target in expr if test: body, else other
    kSet,          // target = expr, or target = body (through expr, a filter chain, when set)
    kMacro,        // text: name; parameters, body
    kCall,         // expr: a call; parameters, body: the caller
    kFilterBlock,  // expr: filter chain over body
    kWith,         // bindings, body
    kGroup,        // body without a scope of its own (generation)
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 0;
  std::string text;
  ExprPtr target, expr, test;
  Body body, other;
  std::vector<Parameter> parameters;
  std::vector<std::pair<ExprPtr, ExprPtr>> bindings;
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;  // of a macro's body
};

}  // namespace sluice
