// SPDX-License-Identifier: Apache-2.0
// An ordered JSON value, also the value type of chat templates. Lists, dicts and strings are shared and immutable once
// built, so copies are cheap and may cross threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace sluice {

class Value;
using List = std::vector<Value>;

class Dict;

// Something that only exists while a template runs: macro, loop, namespace, function. See text/evaluator.h.
struct TemplateObject {
  virtual ~TemplateObject() = default;
};

// How to write JSON; the defaults are Python's json.dumps(ensure_ascii=False).
struct JsonStyle {
  int indent = -1;  // spaces per level; below 0: one line
  std::string item = ", ", key = ": ";
  bool sort_keys = false;
};

class Value {
 public:
  enum class Kind { kUndefined, kNull, kBool, kInt, kFloat, kString, kList, kDict, kObject };

  Value() : data_(nullptr) {}  // null
  Value(std::nullptr_t) : data_(nullptr) {}
  Value(bool b) : data_(b) {}
  Value(int i) : data_(static_cast<int64_t>(i)) {}
  Value(int64_t i) : data_(i) {}
  Value(double d) : data_(d) {}
  Value(const char* s) : Value(std::string(s)) {}
  Value(std::string_view s) : Value(std::string(s)) {}
  Value(std::string s);
  Value(List items, bool tuple = false);
  Value(Dict dict);
  Value(std::shared_ptr<TemplateObject> object) : data_(std::move(object)) {}
  static Value undefined(std::string name);  // `name` appears in errors

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool is_undefined() const { return kind() == Kind::kUndefined; }
  bool is_null() const { return kind() == Kind::kNull; }
  bool is_bool() const { return kind() == Kind::kBool; }
  bool is_int() const { return kind() == Kind::kInt; }
  bool is_float() const { return kind() == Kind::kFloat; }
  bool is_number() const { return is_int() || is_float() || is_bool(); }  // Python: bool is an int
  bool is_string() const { return kind() == Kind::kString; }
  bool is_list() const { return kind() == Kind::kList; }
  bool is_tuple() const;  // a list that prints with parentheses
  bool is_dict() const { return kind() == Kind::kDict; }
  bool is_object() const { return kind() == Kind::kObject; }

  // Each is fatal when the kind is another one: callers test first.
  bool as_bool() const;
  int64_t as_int() const;   // bool counts as 0 or 1
  double as_float() const;  // any number
  const std::string& as_string() const;
  const List& as_list() const;
  const Dict& as_dict() const;
  TemplateObject* as_object() const;
  const std::string& undefined_name() const;

  const Value* find(std::string_view key) const;  // of a dict; nullptr when absent or not a dict

  // Throws RequestError (malformed) with the byte offset. Duplicate keys: the last value, at the first one's place.
  static Value parse_json(std::string_view text);
  // Python's json.dumps(ensure_ascii=False, indent): with indent the lines end in "," alone.
  std::string dump_json(int indent = -1) const;
  std::string dump_json(const JsonStyle& style) const;
  // As parse_json gives and JSON.stringify writes: separators "," and ":".
  std::string dump_compact() const;

 private:
  void write_json(const JsonStyle& style, int depth, std::string& out) const;
  struct Undefined {
    std::shared_ptr<const std::string> name;
  };
  // Depth of nesting is kept and limited, because copying to text, comparing and freeing recurse.
  static constexpr int32_t kMaxDepth = 500;
  struct Items {
    std::shared_ptr<const List> list;
    int32_t depth = 1;
    bool tuple = false;
  };
  struct Entries {
    std::shared_ptr<const Dict> dict;
    int32_t depth = 1;
  };
  int32_t depth() const;
  static int32_t above(int32_t inner);  // throws RequestError(kTemplate) beyond kMaxDepth
  std::variant<Undefined, std::nullptr_t, bool, int64_t, double, std::shared_ptr<const std::string>, Items, Entries,
               std::shared_ptr<TemplateObject>>
      data_;
};

// Insertion order is kept. Lookup is linear for few keys and hashed for many.
class Dict {
 public:
  using Entry = std::pair<std::string, Value>;
  void set(std::string key, Value value);  // replaces in place or appends
  const Value* find(std::string_view key) const;
  const std::vector<Entry>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  void reserve(size_t n) { entries_.reserve(n); }

 private:
  size_t position(std::string_view key) const;  // size() when absent
  void rebuild_index();

  std::vector<Entry> entries_;
  std::vector<uint32_t> index_;  // open addressing over entries, 0 is empty, else position + 1; none for few keys
};

}  // namespace sluice
