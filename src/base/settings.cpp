// SPDX-License-Identifier: Apache-2.0
#include "base/settings.h"

#include <fmt/format.h>

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

int64_t Settings::integer(std::string_view name, int64_t low, int64_t high) const {
  const SettingValue& found = at(name);
  int64_t result = 0;
  const char* end = found.value.data() + found.value.size();
  const auto [stop, error] = std::from_chars(found.value.data(), end, result);
  if (error != std::errc() || stop != end || result < low || result > high) {
    throw Error(fmt::format("{} (from {}): expected a whole number from {} to {}, found '{}'", name, found.origin, low,
                            high, found.value));
  }
  return result;
}

double Settings::number(std::string_view name, double low, double high) const {
  const SettingValue& found = at(name);
  double result = 0;
  const char* end = found.value.data() + found.value.size();
  const auto [stop, error] = std::from_chars(found.value.data(), end, result);
  if (error != std::errc() || stop != end || !(result >= low && result <= high)) {
    throw Error(fmt::format("{} (from {}): expected a number from {} to {}, found '{}'", name, found.origin, low, high,
                            found.value));
  }
  return result;
}

bool Settings::flag(std::string_view name) const {
  const SettingValue& found = at(name);
  const std::string& v = found.value;
  if (v.empty() || v == "0" || v == "false" || v == "no" || v == "off") return false;
  if (v == "1" || v == "true" || v == "yes" || v == "on") return true;
  throw Error(fmt::format("{} (from {}): expected true or false, found '{}'", name, found.origin, v));
}

}  // namespace sluice
