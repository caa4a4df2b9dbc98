// SPDX-License-Identifier: Apache-2.0
#include "text/component.h"

#include <fmt/format.h>

#include "base/error.h"

namespace sluice {

std::string ComponentJson::type() const { return text("type"); }

bool ComponentJson::flag(std::string_view key, bool fallback) const {
  const Value* value = json.find(key);
  if (value == nullptr || value->is_null()) return fallback;
  if (!value->is_bool()) refuse(fmt::format("\"{}\" should be true or false", key));
  return value->as_bool();
}

int64_t ComponentJson::integer(std::string_view key, int64_t fallback) const {
  const Value* value = json.find(key);
  if (value == nullptr || value->is_null()) return fallback;
  if (!value->is_int()) refuse(fmt::format("\"{}\" should be an integer", key));
  return value->as_int();
}

std::string ComponentJson::text(std::string_view key) const {
  const Value* value = json.find(key);
  if (value == nullptr || !value->is_string()) refuse(fmt::format("\"{}\" should be a string", key));
  return value->as_string();
}

std::string ComponentJson::text(std::string_view key, std::string_view fallback) const {
  const Value* value = json.find(key);
  return value == nullptr || value->is_null() ? std::string(fallback) : text(key);
}

const List& ComponentJson::list(std::string_view key) const {
  const Value* value = json.find(key);
  if (value == nullptr || !value->is_list()) refuse(fmt::format("\"{}\" should be a list", key));
  return value->as_list();
}

Regex ComponentJson::pattern(std::string_view key) const {
  const Value* value = json.find(key);
  if (value != nullptr) {
    const Value* literal = value->find("String");
    if (literal != nullptr && literal->is_string()) return Regex::literal(literal->as_string());
    const Value* regex = value->find("Regex");
    if (regex != nullptr && regex->is_string()) {
      try {
        return Regex(regex->as_string());
      } catch (const Error& error) {
        refuse(error.what());
      }
    }
  }
  refuse(fmt::format("\"{}\" should be {{\"String\": ...}} or {{\"Regex\": ...}}", key));
}

void ComponentJson::refuse(std::string_view what) const { throw Error(fmt::format("{}: {}", where, what)); }
void ComponentJson::refuse_type() const { refuse(fmt::format("component type {} is not supported", type())); }

}  // namespace sluice
