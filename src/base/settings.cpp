// SPDX-License-Identifier: Apache-2.0
#include "base/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace sluice {

Settings::Settings(std::vector<Setting> table, const Environment& environment) : table_(std::move(table)) {
  for (const Setting& setting : table_) {
    SettingValue value{setting.fallback, "default"};
    for (const std::string& variable : setting.variables) {
      const char* found = environment(variable.c_str());
      if (found == nullptr || *found == '\0') continue;
      value = {found, variable};
      break;
    }
    check(values_.emplace(setting.name, value).second, "a setting is declared twice");
  }
}

const SettingValue& Settings::at(std::string_view name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) fatal(fmt::format("setting '{}' is not declared", name));
  return found->second;
}

void Settings::set(std::string_view name, std::string value, std::string origin) {
  at(name);
  values_.find(name)->second = {std::move(value), std::move(origin)};
}

bool Settings::has(std::string_view name) const { return !at(name).value.empty(); }
const std::string& Settings::text(std::string_view name) const { return at(name).value; }
const std::string& Settings::origin(std::string_view name) const { return at(name).origin; }

void Settings::refuse(std::string_view name, const std::string& expected) const {
  const SettingValue& found = at(name);
  throw Error(fmt::format("{} (from {}): expected {}, found '{}'", name, found.origin, expected, found.value));
}

template <typename T>
const T& Settings::accepts(std::string_view name) const {
  const auto row = std::ranges::find(table_, name, &Setting::name);
  if (row == table_.end() || !std::holds_alternative<T>(row->accepts))
    fatal(fmt::format("setting '{}' is read as what it is not", name));
  return std::get<T>(row->accepts);
}

int64_t Settings::integer(std::string_view name, int64_t low, int64_t high) const {
  const std::string& value = at(name).value;
  int64_t result = 0;
  const char* end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, result);
  if (error != std::errc() || stop != end || result < low || result > high)
    refuse(name, fmt::format("a whole number from {} to {}", low, high));
  return result;
}

int64_t Settings::integer(std::string_view name) const {
  const auto [low, high] = accepts<WholeNumber>(name);
  return integer(name, low, high);
}

double Settings::number(std::string_view name) const {
  const auto [low, high] = accepts<RealNumber>(name);
  const std::string& value = at(name).value;
  double result = 0;
  const char* end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, result);
  if (error != std::errc() || stop != end || !(result >= low && result <= high))
    refuse(name, fmt::format("a number from {} to {}", low, high));
  return result;
}

bool Settings::flag(std::string_view name) const {
  const std::string& v = at(name).value;
  if (v.empty() || v == "0" || v == "false" || v == "no" || v == "off") return false;
  if (v == "1" || v == "true" || v == "yes" || v == "on") return true;
  refuse(name, "true or false");
}

const std::string& Settings::word(std::string_view name) const {
  const OneOf& words = accepts<OneOf>(name);
  const std::string& value = at(name).value;
  if (std::ranges::find(words, value) != words.end()) return value;
  refuse(name, fmt::format("{} or {}", fmt::join(words.begin(), words.end() - 1, ", "), words.back()));
}

void Settings::check_values() const {
  for (const Setting& setting : table_) {
    if (!has(setting.name)) continue;
    if (std::holds_alternative<WholeNumber>(setting.accepts)) integer(setting.name);
    if (std::holds_alternative<RealNumber>(setting.accepts)) number(setting.name);
    if (std::holds_alternative<YesOrNo>(setting.accepts)) flag(setting.name);
    if (std::holds_alternative<OneOf>(setting.accepts)) word(setting.name);
  }
}

}  // namespace sluice
