// SPDX-License-Identifier: Apache-2.0
// Settings with their origin: flag beats environment beats default. One table declares flag, variables, default and
// help.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace sluice {

// What a value may be; without one of these any text.
struct WholeNumber {
  int64_t low, high;
};
struct RealNumber {
  double low, high;
};
struct YesOrNo {};
using OneOf = std::vector<std::string>;
using Accepts = std::variant<std::monostate, WholeNumber, RealNumber, YesOrNo, OneOf>;

struct Setting {
  std::string name;                    // as in --name, with dashes
  std::vector<std::string> variables;  // environment variables, first match wins (SLUICE_PORT, PORT)
  std::string fallback;                // default value as text; empty means "unset"
  std::string help;                    // one sentence
  Accepts accepts = {};
};

// Where a value came from: "--port", "PORT", "default", or what set() was told.
struct SettingValue {
  std::string value;
  std::string origin;
};

class Settings {
 public:
  // getenv-like lookup, returning nullptr when unset; tests inject one.
  using Environment = std::function<const char*(const char*)>;
  Settings(std::vector<Setting> table, const Environment& environment);

  void set(std::string_view name, std::string value, std::string origin);  // overrides; unknown name is our bug
  bool has(std::string_view name) const;                                   // true when the value is not empty
  const std::string& text(std::string_view name) const;
  // Each throws Error naming the setting, its origin, what was expected and what was found.
  int64_t integer(std::string_view name, int64_t low, int64_t high) const;  // in a range known only now
  int64_t integer(std::string_view name) const;                             // a WholeNumber
  double number(std::string_view name) const;                               // a RealNumber
  bool flag(std::string_view name) const;                // a YesOrNo: 1/true/yes/on, 0/false/no/off or empty
  const std::string& word(std::string_view name) const;  // a OneOf
  void check_values() const;                             // every value that is set, whether or not it will be read
  const std::string& origin(std::string_view name) const;
  const std::vector<Setting>& table() const { return table_; }
  const SettingValue& at(std::string_view name) const;

 private:
  [[noreturn]] void refuse(std::string_view name, const std::string& expected) const;
  template <typename T>
  const T& accepts(std::string_view name) const;

  std::vector<Setting> table_;
  std::map<std::string, SettingValue, std::less<>> values_;
};

}  // namespace sluice
