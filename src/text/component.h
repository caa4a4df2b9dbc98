// SPDX-License-Identifier: Apache-2.0
// What the components of a tokenizer.json share: typed access to their JSON, with errors that name file and component.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"
#include "text/value.h"

namespace sluice {

// One component's JSON object and where it stands, for instance "tokenizer.json: normalizer".
struct ComponentJson {
  const Value& json;
  std::string where;

  std::string type() const;  // "type"; throws Error when it is missing
  bool flag(std::string_view key, bool fallback) const;
  int64_t integer(std::string_view key, int64_t fallback) const;
  std::string text(std::string_view key) const;  // required
  std::string text(std::string_view key, std::string_view fallback) const;
  const List& list(std::string_view key) const;           // required
  Regex pattern(std::string_view key) const;              // {"String": s} or {"Regex": s}, required
  [[noreturn]] void refuse(std::string_view what) const;  // throws Error "where: what"
  [[noreturn]] void refuse_type() const;                  // names the unknown "type"
};

}  // namespace sluice
