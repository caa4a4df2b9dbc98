// SPDX-License-Identifier: Apache-2.0
#include "api/http.h"

#include <algorithm>

namespace sluice {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool same(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) { return lower(x) == lower(y); });
}

}  // namespace

std::string_view Headers::get(std::string_view name) const {
  for (const auto& [key, value] : items_)
    if (same(key, name)) return value;
  return {};
}

bool HttpRequest::is_json() const {
  std::string_view type = headers.get("content-type");
  type = type.substr(0, type.find(';'));
  while (!type.empty() && type.back() == ' ') type.remove_suffix(1);
  if (type.size() < 16 || !same(type.substr(0, 12), "application/")) return false;
  return same(type, "application/json") || same(type.substr(type.size() - 5), "+json");
}

}  // namespace sluice
