// SPDX-License-Identifier: Apache-2.0
#include "api/dialect.h"

#include <algorithm>
namespace sluice {
namespace {

std::vector<Dialect>& registry() {
  static std::vector<Dialect> all;
  return all;
}

// Whether `path` fits `pattern`, where {} stands for one byte or more; collects what each {} covers, all but the last
// as little as possible. In one pass: anybody may send a long path.
bool fits(std::string_view pattern, std::string_view path, std::vector<std::string>& arguments) {
  size_t hole = pattern.find("{}");
  if (hole == std::string_view::npos) return pattern == path;
  if (!path.starts_with(pattern.substr(0, hole))) return false;
  path.remove_prefix(hole);
  for (bool last = false; !last;) {
    pattern.remove_prefix(hole + 2);
    hole = pattern.find("{}");
    last = hole == std::string_view::npos;
    const std::string_view literal = pattern.substr(0, hole);
    const size_t end = !last ? path.find(literal, 1) : path.ends_with(literal) ? path.size() - literal.size() : 0;
    if (end == 0 || end == std::string_view::npos) {
      arguments.clear();
      return false;
    }
    arguments.emplace_back(path.substr(0, end));
    path.remove_prefix(end + literal.size());
  }
  return true;
}

size_t literal_size(const std::string& pattern) {
  size_t size = pattern.size();
  for (size_t at = pattern.find("{}"); at != std::string::npos; at = pattern.find("{}", at + 2)) size -= 2;
  return size;
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
    for (const Route& route : dialect.routes) entries_.push_back({&route, &dialect, false, {}});
  std::stable_sort(entries_.begin(), entries_.end(), [](const Match& a, const Match& b) {
    const size_t x = literal_size(a.route->path), y = literal_size(b.route->path);
    return x != y ? x > y : a.route->priority > b.route->priority;
  });
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
  std::string_view pattern;  // the first that fits: no other is asked
  for (const Match& entry : entries_) {
    std::vector<std::string> arguments;
    if (path_exists ? entry.route->path != pattern : !fits(entry.route->path, path, arguments)) continue;
    pattern = entry.route->path;
    if (entry.route->method == method) {
      if (path_exists) fits(pattern, path, arguments);
      Match match = entry;
      match.arguments = std::move(arguments);
      return match;
    }
    path_exists = true;
  }
  if (method == "HEAD") return find("GET", path);
  Match none;
  none.wrong_method = path_exists;
  // The dialect whose routes share the first folder (/v1/) reports the error.
  const std::string_view folder = path.substr(0, path.find('/', 1));
  for (const Match& entry : entries_) {
    const std::string_view own = entry.route->path;
    std::vector<std::string> arguments;
    if (path_exists ? fits(own, path, arguments)
                    : own.size() > folder.size() && own.starts_with(folder) && own[folder.size()] == '/')
      none.dialect = entry.dialect;
  }
  return none;
}

Router::Match Router::find(const HttpRequest& request) const {
  Match first = find(request.method, request.path);
  if (first.route == nullptr || !first.route->claims) return first;
  std::vector<Match> all = claimants(request);
  if (all.empty()) return first;
  all.front().arguments = std::move(first.arguments);
  return all.front();
}

std::vector<Router::Match> Router::claimants(const HttpRequest& request) const {
  std::vector<Match> all;
  const Match first = find(request.method, request.path);
  if (first.route == nullptr) return all;
  BodyOutline body;
  bool scanned = false;
  for (const Match& entry : entries_) {
    if (entry.route->path != first.route->path || entry.route->method != first.route->method) continue;
    if (entry.route->claims && !scanned) {
      body = outline(request.body);
      scanned = true;
    }
    if (!entry.route->claims || entry.route->claims(request.headers, body)) all.push_back(entry);
  }
  return all;
}

}  // namespace sluice
