// SPDX-License-Identifier: Apache-2.0
// What is said of a file that is no JSON.
#pragma once

#include <string_view>

namespace sluice {

// What nlohmann::json's exception says, from "line 3, column 5: " on: without its class and number.
inline std::string_view json_problem(std::string_view what) {
  if (const size_t end = what.find("] "); what.starts_with('[') && end != what.npos) what.remove_prefix(end + 2);
  constexpr std::string_view kBefore = "parse error at ";
  return what.starts_with(kBefore) ? what.substr(kBefore.size()) : what;
}

}  // namespace sluice
