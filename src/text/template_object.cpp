// SPDX-License-Identifier: Apache-2.0
#include "text/template_object.h"

#include <fmt/format.h>

#include "text/python.h"

namespace sluice {

const Value* Arguments::find(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Value Arguments::get(size_t index, std::string_view name, const Value& fallback) const {
  const Value* value = find(index, name);
  return value != nullptr ? *value : fallback;
}

Value Arguments::need(size_t index, std::string_view name, std::string_view callee) const {
  const Value* value = find(index, name);
  if (value == nullptr) python::fail(fmt::format("{} needs the argument '{}'", callee, name));
  return *value;
}

Value TemplateCallable::call(Evaluator&, const Arguments&) {
  python::fail(fmt::format("'{}' object is not callable", type()));
}

std::optional<Value> NamespaceObject::attribute(std::string_view name) {
  const Value* value = values.find(name);
  return value != nullptr ? std::optional<Value>(*value) : std::nullopt;
}

std::string RangeObject::text() const {
  return step == 1 ? fmt::format("range({}, {})", start, stop) : fmt::format("range({}, {}, {})", start, stop, step);
}

std::optional<int64_t> RangeObject::size() const {
  if (step > 0) return start < stop ? (stop - start - 1) / step + 1 : 0;
  return start > stop ? (start - stop - 1) / -step + 1 : 0;
}

std::optional<List> RangeObject::iterate() {
  List list;
  const int64_t n = *size();
  for (int64_t i = 0; i < n; ++i) list.emplace_back(start + i * step);
  return list;
}

std::optional<Value> LoopObject::attribute(std::string_view name) {
  const int64_t at = static_cast<int64_t>(index), n = static_cast<int64_t>(items.size());
  if (name == "index") return Value(at + 1);
  if (name == "index0") return Value(at);
  if (name == "revindex") return Value(n - at);
  if (name == "revindex0") return Value(n - at - 1);
  if (name == "first") return Value(at == 0);
  if (name == "last") return Value(at + 1 == n);
  if (name == "length") return Value(n);
  if (name == "depth") return Value(static_cast<int64_t>(depth));
  if (name == "depth0") return Value(static_cast<int64_t>(depth - 1));
  if (name == "previtem") return at > 0 ? items[index - 1] : Value::undefined("there is no previous item");
  if (name == "nextitem") return at + 1 < n ? items[index + 1] : Value::undefined("there is no next item");
  if (name == "cycle") {
    return make_function([at](Evaluator&, const Arguments& a) {
      if (a.positional.empty()) python::fail("no items for cycling given");
      return a.positional[static_cast<size_t>(at) % a.positional.size()];
    });
  }
  if (name == "changed") {
    return make_function([self = shared_from_this()](Evaluator&, const Arguments& a) {
      const Value now(a.positional, true);
      const bool differs = !self->changed || !python::equal(*self->changed, now);
      self->changed = now;
      return Value(differs);
    });
  }
  return std::nullopt;
}

Value make_function(FunctionObject::Body body) {
  return Value(std::static_pointer_cast<TemplateObject>(std::make_shared<FunctionObject>(std::move(body))));
}

}  // namespace sluice
