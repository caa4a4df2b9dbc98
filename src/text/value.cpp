// SPDX-License-Identifier: Apache-2.0
#include "text/value.h"

#include <algorithm>
#include <functional>

#include "base/error.h"

namespace sluice {

namespace {
constexpr size_t kLinear = 16;  // keys up to which a scan beats hashing
}  // namespace

Value::Value(std::string s) : data_(std::make_shared<const std::string>(std::move(s))) {}
Value::Value(List items, bool tuple) {
  int32_t inner = 0;
  for (const Value& item : items) inner = std::max(inner, item.depth());
  data_ = Items{std::make_shared<const List>(std::move(items)), above(inner), tuple};
}

Value::Value(Dict dict) {
  int32_t inner = 0;
  for (const auto& [key, item] : dict.entries()) inner = std::max(inner, item.depth());
  data_ = Entries{std::make_shared<const Dict>(std::move(dict)), above(inner)};
}

int32_t Value::depth() const {
  if (const Items* items = std::get_if<Items>(&data_)) return items->depth;
  if (const Entries* entries = std::get_if<Entries>(&data_)) return entries->depth;
  return 0;
}

int32_t Value::above(int32_t inner) {
  if (inner >= kMaxDepth) throw RequestError(RequestError::Kind::kTemplate, "a value is nested too deeply");
  return inner + 1;
}

Value Value::undefined(std::string name) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(name))};
  return value;
}

bool Value::is_tuple() const {
  const Items* items = std::get_if<Items>(&data_);
  return items != nullptr && items->tuple;
}

bool Value::as_bool() const {
  check(is_bool(), "value is not a bool");
  return std::get<bool>(data_);
}

int64_t Value::as_int() const {
  if (is_bool()) return std::get<bool>(data_) ? 1 : 0;
  check(is_int(), "value is not an integer");
  return std::get<int64_t>(data_);
}

double Value::as_float() const { return is_float() ? std::get<double>(data_) : static_cast<double>(as_int()); }

const std::string& Value::as_string() const {
  check(is_string(), "value is not a string");
  return *std::get<std::shared_ptr<const std::string>>(data_);
}

const List& Value::as_list() const {
  check(is_list(), "value is not a list");
  return *std::get<Items>(data_).list;
}

const Dict& Value::as_dict() const {
  check(is_dict(), "value is not a dict");
  return *std::get<Entries>(data_).dict;
}

TemplateObject* Value::as_object() const {
  check(is_object(), "value is not an object");
  return std::get<std::shared_ptr<TemplateObject>>(data_).get();
}

const std::string& Value::undefined_name() const {
  static const std::string kNone;
  const Undefined* undefined = std::get_if<Undefined>(&data_);
  return undefined != nullptr && undefined->name ? *undefined->name : kNone;
}

const Value* Value::find(std::string_view key) const { return is_dict() ? as_dict().find(key) : nullptr; }

size_t Dict::position(std::string_view key) const {
  if (index_.empty()) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i].first == key) return i;
    }
    return entries_.size();
  }
  const size_t mask = index_.size() - 1;
  for (size_t slot = std::hash<std::string_view>{}(key)&mask; index_[slot] != 0; slot = (slot + 1) & mask) {
    if (entries_[index_[slot] - 1].first == key) return index_[slot] - 1;
  }
  return entries_.size();
}

void Dict::rebuild_index() {
  size_t slots = 4 * kLinear;
  while (slots < 4 * entries_.size()) slots *= 2;
  index_.assign(slots, 0);
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t slot = std::hash<std::string_view>{}(entries_[i].first) & (slots - 1);
    while (index_[slot] != 0) slot = (slot + 1) & (slots - 1);
    index_[slot] = static_cast<uint32_t>(i + 1);
  }
}

void Dict::set(std::string key, Value value) {
  const size_t at = position(key);
  if (at < entries_.size()) {
    entries_[at].second = std::move(value);
    return;
  }
  entries_.emplace_back(std::move(key), std::move(value));
  if (entries_.size() <= kLinear) return;
  if (2 * entries_.size() > index_.size()) {
    rebuild_index();
    return;
  }
  const size_t mask = index_.size() - 1;
  size_t slot = std::hash<std::string_view>{}(entries_.back().first) & mask;
  while (index_[slot] != 0) slot = (slot + 1) & mask;
  index_[slot] = static_cast<uint32_t>(entries_.size());
}

const Value* Dict::find(std::string_view key) const {
  const size_t at = position(key);
  return at < entries_.size() ? &entries_[at].second : nullptr;
}

}  // namespace sluice
