// SPDX-License-Identifier: Apache-2.0
// What only exists while a template runs: functions, macros, loops, namespaces, ranges, generators.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/value.h"

namespace sluice {

class Evaluator;

// Arguments of a call, filter or test.
struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;

  const Value* find(size_t index, std::string_view name) const;  // nullptr when not given
  Value get(size_t index, std::string_view name, const Value& fallback) const;
  Value need(size_t index, std::string_view name, std::string_view callee) const;  // fails when not given
};

// The one base of all of them; every TemplateObject in a Value is one.
struct TemplateCallable : TemplateObject {
  virtual std::string type() const = 0;
  virtual std::string text() const { return "<" + type() + ">"; }
  virtual bool callable() const { return false; }
  virtual Value call(Evaluator& evaluator, const Arguments& arguments);
  virtual std::optional<Value> attribute(std::string_view name) { return std::nullopt; }
  virtual std::optional<List> iterate() { return std::nullopt; }
  virtual std::optional<int64_t> size() const { return std::nullopt; }
};

struct FunctionObject : TemplateCallable {
  using Body = std::function<Value(Evaluator&, const Arguments&)>;
  explicit FunctionObject(Body b) : body(std::move(b)) {}
  std::string type() const override { return "function"; }
  bool callable() const override { return true; }
  Value call(Evaluator& evaluator, const Arguments& arguments) override { return body(evaluator, arguments); }
  Body body;
};

struct NamespaceObject : TemplateCallable {
  std::string type() const override { return "Namespace"; }
  std::optional<Value> attribute(std::string_view name) override;
  Dict values;
};

struct RangeObject : TemplateCallable {
  std::string type() const override { return "range"; }
  std::string text() const override;
  std::optional<List> iterate() override;
  std::optional<int64_t> size() const override;
  int64_t start = 0, stop = 0, step = 1;
};

// The result of map, select and their kin: always true, without a length, read once.
struct GeneratorObject : TemplateCallable {
  explicit GeneratorObject(List list) : items(std::move(list)) {}
  std::string type() const override { return "generator"; }
  std::string text() const override { return "<generator object>"; }
  std::optional<List> iterate() override { return std::exchange(items, {}); }
  List items;
};

struct LoopObject : TemplateCallable, std::enable_shared_from_this<LoopObject> {
  std::string type() const override { return "LoopContext"; }
  std::optional<Value> attribute(std::string_view name) override;
  std::optional<int64_t> size() const override { return static_cast<int64_t>(items.size()); }
  List items;
  size_t index = 0;
  int depth = 0;
  std::optional<Value> changed;  // what loop.changed saw last
};

Value make_function(FunctionObject::Body body);

}  // namespace sluice
