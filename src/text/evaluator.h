// SPDX-License-Identifier: Apache-2.0
// Runs a syntax tree. One per rendering; limits bound its time, depth and output.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template_ast.h"
#include "text/template_object.h"

namespace sluice {

class Evaluator {
 public:
  static constexpr int kMaxDepth = 600;            // nested statements and expressions, macro calls included
  static constexpr size_t kMaxOutput = 64u << 20;  // bytes

  // `max_steps`: statements and expressions, and turns of loops inside filters.
  Evaluator(const Dict& variables, int64_t max_steps);
  ~Evaluator();  // empties the namespaces, which may hold themselves
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;
  // The rendered text. Throws RequestError(kTemplate).
  std::string run(const Body& body);

  void step();  // counts one; loops inside filters call it too
  Value call(const Value& callee, const Arguments& arguments);
  Value make_namespace(Dict values);

 private:
  // Variables of a block; names are found through the parents.
  struct Scope {
    std::shared_ptr<Scope> parent;
    std::vector<std::pair<std::string, Value>> values;
    const Value* find(std::string_view name) const;
    void set(std::string_view name, Value value);
  };
  using ScopePtr = std::shared_ptr<Scope>;
  struct Macro;
  enum class Flow { kNext, kBreak, kContinue };
  class Deeper;

  Flow run_body(const Body& body, const ScopePtr& scope, std::string& out);
  Flow run_stmt(const Stmt& stmt, const ScopePtr& scope, std::string& out);
  Flow run_for(const Stmt& stmt, const ScopePtr& scope, std::string& out);
  void run_set(const Stmt& stmt, const ScopePtr& scope);
  void assign(const Expr& target, const Value& value, Scope& scope);
  Value make_macro(const Stmt& stmt, const ScopePtr& scope);
  Value call_macro(const Macro& macro, const Arguments& arguments);

  Value eval(const Expr& expr, const ScopePtr& scope);
  Value eval_call(const Expr& expr, const ScopePtr& scope, const Value* caller = nullptr);
  Value eval_filter(const Expr& expr, const ScopePtr& scope, const Value* input);
  Value eval_compare(const Expr& expr, const ScopePtr& scope);
  Value eval_binary(const Expr& expr, const ScopePtr& scope);
  Arguments arguments_of(const Expr& expr, size_t first, const ScopePtr& scope);

  const Dict& variables_;
  std::vector<std::weak_ptr<NamespaceObject>> namespaces_;
  const int64_t max_steps_;
  int64_t steps_ = 0;
  int depth_ = 0;
};

}  // namespace sluice
