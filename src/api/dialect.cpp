// SPDX-License-Identifier: Apache-2.0
#include "api/dialect.h"

#include <algorithm>

#include "api/json.h"

namespace sluice {
namespace {

std::vector<Dialect>& registry() {
  static std::vector<Dialect> all;
  return all;
}

}  // namespace

RegisterDialect::RegisterDialect(Dialect dialect) {
  auto& all = registry();
  for (const Dialect& other : all) check(other.name != dialect.name, "two dialects are named " + dialect.name);
  all.push_back(std::move(dialect));
  std::sort(all.begin(), all.end(), [](const Dialect& a, const Dialect& b) { return a.name < b.name; });
}

std::span<const Dialect> dialects() { return registry(); }

Router::Router(std::span<const Dialect> dialects) {
  for (const Dialect& dialect : dialects)
    for (const Route& route : dialect.routes) entries_.push_back({&route, &dialect, false});
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const Match& a, const Match& b) { return a.route->priority > b.route->priority; });
  for (size_t i = 0; i < entries_.size(); ++i) {
    for (size_t j = i + 1; j < entries_.size(); ++j) {
      const Route &a = *entries_[i].route, &b = *entries_[j].route;
      check(a.method != b.method || a.path != b.path || a.priority != b.priority || (a.claims && b.claims),
            "dialects " + entries_[i].dialect->name + " and " + entries_[j].dialect->name + " both own " + a.method +
                " " + a.path);
    }
  }
}

Router::Match Router::find(std::string_view method, std::string_view path) const {
  bool path_exists = false;
  for (const Match& entry : entries_) {
    if (entry.route->path != path) continue;
    if (entry.route->method == method) return entry;
    path_exists = true;
  }
  if (method == "HEAD") return find("GET", path);
  Match none;
  none.wrong_method = path_exists;
  // The dialect whose routes share the first folder (/v1/) reports the error.
  const std::string_view folder = path.substr(0, path.find('/', 1));
  for (const Match& entry : entries_) {
    const std::string_view own = entry.route->path;
    if (path_exists ? own == path : own.size() > folder.size() && own.starts_with(folder) && own[folder.size()] == '/')
      none.dialect = entry.dialect;
  }
  return none;
}

Router::Match Router::find(const HttpRequest& request) const {
  Match first = find(request.method, request.path);
  if (first.route == nullptr || !first.route->claims) return first;
  std::vector<Match> all = claimants(request);
  return all.empty() ? first : all.front();
}

std::vector<Router::Match> Router::claimants(const HttpRequest& request) const {
  std::vector<Match> all;
  std::vector<std::string> keys;
  bool scanned = false;
  for (const Match& entry : entries_) {
    if (entry.route->path != request.path || entry.route->method != request.method) continue;
    if (entry.route->claims && !scanned) {
      keys = top_level_keys(request.body);
      scanned = true;
    }
    if (!entry.route->claims || entry.route->claims(request.headers, keys)) all.push_back(entry);
  }
  return all;
}

}  // namespace sluice
