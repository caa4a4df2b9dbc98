// SPDX-License-Identifier: Apache-2.0
#include "text/evaluator.h"

#include <fmt/format.h>

#include "text/python.h"
#include "text/template_builtins.h"

namespace sluice {

struct Evaluator::Macro : TemplateCallable {
  Macro(const Stmt& s, const ScopePtr& d) : stmt(s), defined_in(d) {}
  std::string type() const override { return "Macro"; }
  bool callable() const override { return true; }
  Value call(Evaluator& evaluator, const Arguments& arguments) override {
    return evaluator.call_macro(*this, arguments);
  }
  std::optional<Value> attribute(std::string_view name) override {
    return name == "name" ? std::optional<Value>(Value(stmt.text)) : std::nullopt;
  }
  const Stmt& stmt;
  std::weak_ptr<Scope> defined_in;  // holds this macro, so it must not be held in turn
};

class Evaluator::Deeper {
 public:
  explicit Deeper(Evaluator& evaluator) : evaluator_(evaluator) {
    if (++evaluator_.depth_ > kMaxDepth) {
      --evaluator_.depth_;
      python::fail("template is nested too deeply");
    }
    evaluator_.step();
  }
  ~Deeper() { --evaluator_.depth_; }

 private:
  Evaluator& evaluator_;
};

const Value* Evaluator::Scope::find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [key, value] : scope->values) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Evaluator::Scope::set(std::string_view name, Value value) {
  for (auto& [key, old] : values) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  values.emplace_back(std::string(name), std::move(value));
}

Evaluator::Evaluator(const Dict& variables, int64_t max_steps) : variables_(variables), max_steps_(max_steps) {}

Evaluator::~Evaluator() {
  for (const auto& weak : namespaces_) {
    if (const auto space = weak.lock()) space->values = {};
  }
}

Value Evaluator::make_namespace(Dict values) {
  const auto space = std::make_shared<NamespaceObject>();
  space->values = std::move(values);
  namespaces_.push_back(space);
  return Value(std::static_pointer_cast<TemplateObject>(space));
}

std::string Evaluator::run(const Body& body) {
  const auto scope = std::make_shared<Scope>();
  std::string out;
  run_body(body, scope, out);
  return out;
}

void Evaluator::step() {
  if (++steps_ > max_steps_) python::fail("template exceeds its limit of steps");
}

Evaluator::Flow Evaluator::run_body(const Body& body, const ScopePtr& scope, std::string& out) {
  for (const auto& stmt : body) {
    const Flow flow = run_stmt(*stmt, scope, out);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::run_stmt(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
  const Deeper deeper(*this);
  if (out.size() > kMaxOutput) python::fail("template output exceeds its limit of 64 MiB");
  switch (stmt.kind) {
    case Stmt::Kind::kText:
      out += stmt.text;
      return Flow::kNext;
    case Stmt::Kind::kPrint:
      out += python::str(eval(*stmt.expr, scope));
      return Flow::kNext;
    case Stmt::Kind::kIf:
      return run_body(python::truthy(eval(*stmt.expr, scope)) ? stmt.body : stmt.other, scope, out);
    case Stmt::Kind::kFor:
      return run_for(stmt, scope, out);
    case Stmt::Kind::kSet:
      run_set(stmt, scope);
      return Flow::kNext;
    case Stmt::Kind::kMacro:
      scope->set(stmt.text, make_macro(stmt, scope));
      return Flow::kNext;
    case Stmt::Kind::kCall: {
      const Value caller = make_macro(stmt, scope);
      out += python::str(eval_call(*stmt.expr, scope, &caller));
      return Flow::kNext;
    }
    case Stmt::Kind::kFilterBlock: {
      std::string text;
      const Flow flow = run_body(stmt.body, std::make_shared<Scope>(Scope{scope, {}}), text);
      const Value input(std::move(text));
      out += python::str(eval_filter(*stmt.expr, scope, &input));
      return flow;
    }
    case Stmt::Kind::kWith: {
      const auto inner = std::make_shared<Scope>(Scope{scope, {}});
      std::vector<Value> values;  // in the outer scope, all before any is bound
      for (const auto& [target, value] : stmt.bindings) values.push_back(eval(*value, scope));
      for (size_t i = 0; i < values.size(); ++i) assign(*stmt.bindings[i].first, values[i], *inner);
      return run_body(stmt.body, inner, out);
    }
    case Stmt::Kind::kGroup:
      return run_body(stmt.body, scope, out);
    case Stmt::Kind::kBreak:
      return Flow::kBreak;
    case Stmt::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::run_for(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
  const Value sequence = eval(*stmt.expr, scope);
  List items = python::items(sequence);
  if (stmt.test) {
    List kept;
    for (const Value& item : items) {
      const auto inner = std::make_shared<Scope>(Scope{scope, {}});
      assign(*stmt.target, item, *inner);
      if (python::truthy(eval(*stmt.test, inner))) kept.push_back(item);
    }
    items = std::move(kept);
  }
  if (items.empty()) return run_body(stmt.other, scope, out);
  const auto loop = std::make_shared<LoopObject>();
  loop->items = std::move(items);
  loop->depth = 1;
  const Value loop_value(std::static_pointer_cast<TemplateObject>(loop));
  bool completed = false;  // Jinja's else also runs when break or continue ended every round
  for (size_t i = 0; i < loop->items.size(); ++i) {
    step();
    loop->index = i;
    const auto inner = std::make_shared<Scope>(Scope{scope, {}});
    inner->set("loop", loop_value);
    assign(*stmt.target, loop->items[i], *inner);
    const Flow flow = run_body(stmt.body, inner, out);
    if (flow == Flow::kBreak) break;
    completed |= flow == Flow::kNext;
  }
  return completed ? Flow::kNext : run_body(stmt.other, scope, out);
}

void Evaluator::run_set(const Stmt& stmt, const ScopePtr& scope) {
  if (stmt.text.empty()) return assign(*stmt.target, eval(*stmt.expr, scope), *scope);
  std::string text;
  run_body(stmt.body, std::make_shared<Scope>(Scope{scope, {}}), text);
  Value value(std::move(text));
  if (stmt.expr) value = eval_filter(*stmt.expr, scope, &value);
  assign(*stmt.target, value, *scope);
}

void Evaluator::assign(const Expr& target, const Value& value, Scope& scope) {
  if (target.kind == Expr::Kind::kName) return scope.set(target.name, value);
  if (target.kind == Expr::Kind::kAttribute) {
    const Value* object = scope.find(target.args[0]->name);
    auto* space =
        object != nullptr && object->is_object() ? dynamic_cast<NamespaceObject*>(object->as_object()) : nullptr;
    if (space == nullptr) python::fail("cannot assign attribute on non-namespace object");
    space->values.set(target.name, value);
    return;
  }
  python::require_defined(value);
  const List items = python::items(value);
  if (items.size() != target.args.size()) {
    python::fail(fmt::format("cannot unpack {} values into {} names", items.size(), target.args.size()));
  }
  for (size_t i = 0; i < items.size(); ++i) assign(*target.args[i], items[i], scope);
}

Value Evaluator::make_macro(const Stmt& stmt, const ScopePtr& scope) {
  return Value(std::static_pointer_cast<TemplateObject>(std::make_shared<Macro>(stmt, scope)));
}

Value Evaluator::call_macro(const Macro& macro, const Arguments& arguments) {
  const Deeper deeper(*this);
  const Stmt& stmt = macro.stmt;
  ScopePtr outer = macro.defined_in.lock();
  if (!outer) python::fail(fmt::format("macro '{}' is called outside the block that defines it", stmt.text));
  const auto scope = std::make_shared<Scope>(Scope{std::move(outer), {}});
  const size_t n = stmt.parameters.size();
  const std::string name = stmt.text.empty() ? "caller" : stmt.text;
  if (arguments.positional.size() > n && !stmt.uses_varargs) {
    python::fail(fmt::format("macro '{}' takes not more than {} argument(s)", name, n));
  }
  std::vector<bool> used(arguments.named.size());
  for (size_t i = 0; i < n; ++i) {
    const Parameter& parameter = stmt.parameters[i];
    if (i < arguments.positional.size()) {
      scope->set(parameter.name, arguments.positional[i]);
      continue;
    }
    const Value* given = nullptr;
    for (size_t k = 0; k < used.size(); ++k) {
      if (arguments.named[k].first == parameter.name) given = &arguments.named[k].second, used[k] = true;
    }
    if (given != nullptr) {
      scope->set(parameter.name, *given);
    } else if (parameter.fallback) {
      scope->set(parameter.name, eval(*parameter.fallback, scope));
    } else {
      scope->set(parameter.name, Value::undefined(fmt::format("parameter '{}' was not provided", parameter.name)));
    }
  }
  Dict rest;
  for (size_t k = 0; k < used.size(); ++k) {
    const auto& [key, value] = arguments.named[k];
    if (used[k]) continue;
    if (key == "caller") {
      scope->set("caller", value);
    } else if (stmt.uses_kwargs) {
      rest.set(key, value);
    } else {
      python::fail(fmt::format("macro '{}' takes no keyword argument '{}'", name, key));
    }
  }
  if (stmt.uses_kwargs) scope->set("kwargs", Value(std::move(rest)));
  if (stmt.uses_varargs) {
    List more;
    for (size_t i = n; i < arguments.positional.size(); ++i) more.push_back(arguments.positional[i]);
    scope->set("varargs", Value(std::move(more), true));
  }
  std::string out;
  run_body(stmt.body, scope, out);
  return Value(std::move(out));
}

Value Evaluator::call(const Value& callee, const Arguments& arguments) {
  python::require_defined(callee);
  auto* object = callee.is_object() ? static_cast<TemplateCallable*>(callee.as_object()) : nullptr;
  if (object == nullptr || !object->callable())
    python::fail(fmt::format("'{}' object is not callable", python::type_name(callee)));
  return object->call(*this, arguments);
}

Value Evaluator::eval(const Expr& expr, const ScopePtr& scope) {
  const Deeper deeper(*this);
  const auto arg = [&](size_t i) { return eval(*expr.args[i], scope); };
  switch (expr.kind) {
    case Expr::Kind::kConstant:
      return expr.value;
    case Expr::Kind::kName: {
      if (const Value* value = scope->find(expr.name)) return *value;
      if (const Value* value = variables_.find(expr.name)) return *value;
      if (const Value* value = template_globals().find(expr.name)) return *value;
      return Value::undefined(fmt::format("'{}' is undefined", expr.name));
    }
    case Expr::Kind::kList:
    case Expr::Kind::kTuple: {
      List list;
      for (size_t i = 0; i < expr.args.size(); ++i) list.push_back(arg(i));
      return Value(std::move(list), expr.kind == Expr::Kind::kTuple);
    }
    case Expr::Kind::kDict: {
      Dict dict;
      for (size_t i = 0; i < expr.args.size(); i += 2) {
        const Value key = arg(i);
        if (!key.is_string())
          python::fail(
              fmt::format("dict keys of type '{}' are not supported, only strings are", python::type_name(key)));
        dict.set(key.as_string(), arg(i + 1));
      }
      return Value(std::move(dict));
    }
    case Expr::Kind::kAttribute:
      return get_attribute(arg(0), expr.name);
    case Expr::Kind::kItem: {
      const Value object = arg(0);
      return get_item(object, arg(1));
    }
    case Expr::Kind::kSlice: {
      Value parts[3];
      const Value object = arg(0);
      for (size_t i = 0; i < 3; ++i) {
        if (expr.args[i + 1]) parts[i] = arg(i + 1);
      }
      return python::slice(object, parts[0], parts[1], parts[2]);
    }
    case Expr::Kind::kCall:
      return eval_call(expr, scope);
    case Expr::Kind::kFilter:
      return eval_filter(expr, scope, nullptr);
    case Expr::Kind::kTest: {
      const Value value = arg(0);
      return Value(apply_test(*this, expr.name, value, arguments_of(expr, 1, scope)));
    }
    case Expr::Kind::kUnary: {
      const Value value = arg(0);
      if (expr.name == "not") return Value(!python::truthy(value));
      if (expr.name == "-") return python::negate(value);
      return python::binary("+", Value(0), value);
    }
    case Expr::Kind::kBinary:
      return eval_binary(expr, scope);
    case Expr::Kind::kCompare:
      return eval_compare(expr, scope);
    case Expr::Kind::kCondition:
      if (python::truthy(arg(1))) return arg(0);
      return expr.args[2]
                 ? arg(2)
                 : Value::undefined("the inline if-expression evaluated to false and no else section was defined");
  }
  return Value();
}

Arguments Evaluator::arguments_of(const Expr& expr, size_t first, const ScopePtr& scope) {
  Arguments arguments;
  for (size_t i = first; i < expr.args.size(); ++i) arguments.positional.push_back(eval(*expr.args[i], scope));
  for (const auto& [name, value] : expr.named) arguments.named.emplace_back(name, eval(*value, scope));
  return arguments;
}

Value Evaluator::eval_call(const Expr& expr, const ScopePtr& scope, const Value* caller) {
  const Expr& callee = *expr.args[0];
  Arguments arguments;
  if (callee.kind == Expr::Kind::kAttribute) {
    const Value object = eval(*callee.args[0], scope);
    if (has_method(object, callee.name)) return call_method(object, callee.name, arguments_of(expr, 1, scope));
    const Value function = get_attribute(object, callee.name);
    arguments = arguments_of(expr, 1, scope);
    if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
    return call(function, arguments);
  }
  const Value function = eval(callee, scope);
  arguments = arguments_of(expr, 1, scope);
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  return call(function, arguments);
}

Value Evaluator::eval_filter(const Expr& expr, const ScopePtr& scope, const Value* input) {
  Value value;
  if (expr.args[0] == nullptr) {
    value = *input;
  } else if (input != nullptr && expr.args[0]->kind == Expr::Kind::kFilter) {
    value = eval_filter(*expr.args[0], scope, input);
  } else {
    value = eval(*expr.args[0], scope);
  }
  return apply_filter(*this, expr.name, value, arguments_of(expr, 1, scope));
}

Value Evaluator::eval_compare(const Expr& expr, const ScopePtr& scope) {
  Value left = eval(*expr.args[0], scope);
  for (size_t i = 0; i < expr.names.size(); ++i) {
    Value right = eval(*expr.args[i + 1], scope);
    const std::string& op = expr.names[i];
    bool holds = false;
    if (op == "==") holds = python::equal(left, right);
    if (op == "!=") holds = !python::equal(left, right);
    if (op == "<") holds = python::less(left, right, "<");
    if (op == ">") holds = python::less(right, left, ">");
    if (op == "<=") holds = !python::less(right, left, "<=");
    if (op == ">=") holds = !python::less(left, right, ">=");
    if (op == "in") holds = python::contains(right, left);
    if (op == "not in") holds = !python::contains(right, left);
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Evaluator::eval_binary(const Expr& expr, const ScopePtr& scope) {
  Value left = eval(*expr.args[0], scope);
  if (expr.name == "and") return python::truthy(left) ? eval(*expr.args[1], scope) : left;
  if (expr.name == "or") return python::truthy(left) ? left : eval(*expr.args[1], scope);
  const Value right = eval(*expr.args[1], scope);
  if (expr.name != "~") return python::binary(expr.name, left, right);
  std::string text = python::str(left);
  text += python::str(right);
  if (text.size() > python::kMaxText) python::fail("text exceeds the template limit of 64 MiB");
  return Value(std::move(text));
}

}  // namespace sluice
