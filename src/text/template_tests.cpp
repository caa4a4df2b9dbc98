// SPDX-License-Identifier: Apache-2.0
// Jinja's tests ("x is defined") and the global functions of chat templates.
#include <fmt/format.h>

#include <ctime>
#include <map>

#include "text/evaluator.h"
#include "text/python.h"
#include "text/template_builtins.h"
#include "text/unicode.h"

namespace sluice {
namespace {

using python::fail;
using Test = bool (*)(Evaluator&, const Value&, const Arguments&);

const Value& operand(const Arguments& a) {
  if (a.positional.empty()) fail("the test needs an operand");
  return a.positional[0];
}

int64_t modulo(const Value& value, const Value& by) {
  const Value rest = python::binary("%", value, by);
  return rest.is_float() ? (rest.as_float() == 0 ? 0 : 1) : rest.as_int();
}

const std::map<std::string_view, Test> kTests = {
    {"defined", [](Evaluator&, const Value& v, const Arguments&) { return !v.is_undefined(); }},
    {"undefined", [](Evaluator&, const Value& v, const Arguments&) { return v.is_undefined(); }},
    {"none", [](Evaluator&, const Value& v, const Arguments&) { return v.is_null(); }},
    {"string", [](Evaluator&, const Value& v, const Arguments&) { return v.is_string(); }},
    {"mapping", [](Evaluator&, const Value& v, const Arguments&) { return v.is_dict(); }},
    {"sequence",
     [](Evaluator&, const Value& v, const Arguments&) {
       return v.is_string() || v.is_list() || v.is_dict() || v.is_undefined() ||
              (v.is_object() && static_cast<TemplateCallable*>(v.as_object())->type() == "range");
     }},
    {"iterable",
     [](Evaluator&, const Value& v, const Arguments&) {
       if (v.is_object()) {
         const std::string type = static_cast<TemplateCallable*>(v.as_object())->type();
         return type == "range" || type == "generator";
       }
       return v.is_string() || v.is_list() || v.is_dict() || v.is_undefined();
     }},
    {"number", [](Evaluator&, const Value& v, const Arguments&) { return v.is_number(); }},
    {"integer", [](Evaluator&, const Value& v, const Arguments&) { return v.is_int(); }},
    {"float", [](Evaluator&, const Value& v, const Arguments&) { return v.is_float(); }},
    {"boolean", [](Evaluator&, const Value& v, const Arguments&) { return v.is_bool(); }},
    {"true", [](Evaluator&, const Value& v, const Arguments&) { return v.is_bool() && v.as_bool(); }},
    {"false", [](Evaluator&, const Value& v, const Arguments&) { return v.is_bool() && !v.as_bool(); }},
    {"callable",
     [](Evaluator&, const Value& v, const Arguments&) {
       return v.is_object() && static_cast<TemplateCallable*>(v.as_object())->callable();
     }},
    {"odd", [](Evaluator&, const Value& v, const Arguments&) { return modulo(v, Value(2)) == 1; }},
    {"even", [](Evaluator&, const Value& v, const Arguments&) { return modulo(v, Value(2)) == 0; }},
    {"divisibleby", [](Evaluator&, const Value& v, const Arguments& a) { return modulo(v, operand(a)) == 0; }},
    {"in", [](Evaluator&, const Value& v, const Arguments& a) { return python::contains(operand(a), v); }},
    {"eq", [](Evaluator&, const Value& v, const Arguments& a) { return python::equal(v, operand(a)); }},
    {"ne", [](Evaluator&, const Value& v, const Arguments& a) { return !python::equal(v, operand(a)); }},
    {"lt", [](Evaluator&, const Value& v, const Arguments& a) { return python::less(v, operand(a), "<"); }},
    {"gt", [](Evaluator&, const Value& v, const Arguments& a) { return python::less(operand(a), v, ">"); }},
    {"le", [](Evaluator&, const Value& v, const Arguments& a) { return !python::less(operand(a), v, "<="); }},
    {"ge", [](Evaluator&, const Value& v, const Arguments& a) { return !python::less(v, operand(a), ">="); }},
    {"sameas", [](Evaluator&, const Value& v,
                  const Arguments& a) { return v.kind() == operand(a).kind() && python::equal(v, operand(a)); }},
    {"lower",
     [](Evaluator&, const Value& v, const Arguments&) {
       return lower(python::str(v)) == python::str(v) && upper(python::str(v)) != python::str(v);
     }},
    {"upper",
     [](Evaluator&, const Value& v, const Arguments&) {
       return upper(python::str(v)) == python::str(v) && lower(python::str(v)) != python::str(v);
     }},
    {"filter",
     [](Evaluator&, const Value& v, const Arguments&) { return v.is_string() && is_template_filter(v.as_string()); }},
    {"test",
     [](Evaluator&, const Value& v, const Arguments&) { return v.is_string() && is_template_test(v.as_string()); }},
};

std::string_view canonical(std::string_view name) {
  if (name == "equalto") return "eq";
  if (name == "lessthan") return "lt";
  if (name == "greaterthan") return "gt";
  return name;
}

Value strftime_now(Evaluator&, const Arguments& a) {
  const Value format = a.need(0, "format", "strftime_now");
  if (!format.is_string()) fail("strftime_now expects a format string");
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::localtime_r(&now, &parts);
  std::string out(format.as_string().size() * 8 + 256, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.as_string().c_str(), &parts));
  return Value(std::move(out));
}

Value make_range(Evaluator&, const Arguments& a) {
  const auto range = std::make_shared<RangeObject>();
  for (const Value& v : a.positional) {
    python::require_defined(v);
    if (!v.is_int() && !v.is_bool())
      fail(fmt::format("'{}' object cannot be interpreted as an integer", python::type_name(v)));
  }
  if (a.positional.empty() || a.positional.size() > 3) fail("range expects 1 to 3 arguments");
  if (a.positional.size() == 1) {
    range->stop = a.positional[0].as_int();
  } else {
    range->start = a.positional[0].as_int();
    range->stop = a.positional[1].as_int();
    if (a.positional.size() == 3) range->step = a.positional[2].as_int();
  }
  if (range->step == 0) fail("range() arg 3 must not be zero");
  constexpr int64_t kLimit = int64_t{1} << 60;
  for (const int64_t end : {range->start, range->stop, range->step}) {
    if (end > kLimit || end < -kLimit) fail("range too big");
  }
  if (*range->size() > 100000) fail("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
  return Value(std::static_pointer_cast<TemplateObject>(range));
}

Dict collect(const Arguments& a) {
  Dict dict;
  for (const Value& from : a.positional) {
    if (!from.is_dict()) fail(fmt::format("'{}' object cannot be made a dict", python::type_name(from)));
    for (const auto& [key, value] : from.as_dict().entries()) dict.set(key, value);
  }
  for (const auto& [key, value] : a.named) dict.set(key, value);
  return dict;
}

struct CyclerObject : TemplateCallable, std::enable_shared_from_this<CyclerObject> {
  std::string type() const override { return "Cycler"; }
  std::optional<Value> attribute(std::string_view name) override {
    if (name == "current") return items[at];
    if (name == "next") {
      return make_function([self = shared_from_this()](Evaluator&, const Arguments&) {
        Value value = self->items[self->at];
        self->at = (self->at + 1) % self->items.size();
        return value;
      });
    }
    if (name == "reset") {
      return make_function([self = shared_from_this()](Evaluator&, const Arguments&) {
        self->at = 0;
        return Value();
      });
    }
    return std::nullopt;
  }
  List items;
  size_t at = 0;
};

Value make_cycler(Evaluator&, const Arguments& a) {
  if (a.positional.empty()) fail("at least one item has to be provided");
  const auto cycler = std::make_shared<CyclerObject>();
  cycler->items = a.positional;
  return Value(std::static_pointer_cast<TemplateObject>(cycler));
}

Value make_joiner(Evaluator&, const Arguments& a) {
  const Value separator = a.get(0, "sep", Value(", "));
  return make_function([separator, used = std::make_shared<bool>(false)](Evaluator&, const Arguments&) {
    return std::exchange(*used, true) ? separator : Value("");
  });
}

}  // namespace

bool is_template_test(std::string_view name) { return kTests.contains(canonical(name)); }

bool apply_test(Evaluator& evaluator, std::string_view name, const Value& value, const Arguments& arguments) {
  const auto it = kTests.find(canonical(name));
  if (it == kTests.end()) fail(fmt::format("No test named '{}'.", name));
  return it->second(evaluator, value, arguments);
}

const Dict& template_globals() {
  static const Dict kGlobals = [] {
    Dict dict;
    dict.set("raise_exception", make_function([](Evaluator&, const Arguments& a) -> Value {
               fail(python::str(a.need(0, "message", "raise_exception")));
             }));
    dict.set("strftime_now", make_function(strftime_now));
    dict.set("range", make_function(make_range));
    dict.set("dict", make_function([](Evaluator&, const Arguments& a) { return Value(collect(a)); }));
    dict.set("namespace", make_function([](Evaluator& e, const Arguments& a) { return e.make_namespace(collect(a)); }));
    dict.set("cycler", make_function(make_cycler));
    dict.set("joiner", make_function(make_joiner));
    return dict;
  }();
  return kGlobals;
}

}  // namespace sluice
