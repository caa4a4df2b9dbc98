// SPDX-License-Identifier: Apache-2.0
// A dialect is a set of routes with one error shape. Files of dialects/ register theirs; nothing else names them.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/http.h"
#include "api/json.h"
#include "api/service.h"
#include "base/error.h"

namespace sluice {

// Where the server stands when a route that works without the model is asked.
enum class ServerState { kLoading, kReady, kDraining };

struct RouteContext {
  ServerState state = ServerState::kLoading;
  const Service* service = nullptr;  // nullptr only while loading
};

struct Route {
  std::string method;
  std::string path;  // exact, or with {} for any text; the pattern with the most literal text wins
  // Runs on the connection's thread; RequestError and std::exception become the dialect's error reply.
  std::function<void(const HttpRequest&, Reply&, const RouteContext&)> handler;
  bool open = false;        // answers without the key
  bool needs_model = true;  // refused with kUnavailable unless ready
  // Told apart by headers and the body's members where several routes share (method, path). Empty: always.
  std::function<bool(const Headers&, const BodyOutline&)> claims = {};
  int priority = 0;  // the highest that claims wins; where none claims, the highest of all answers
};

// What went wrong outside a handler, or in one.
struct Failure {
  RequestError::Kind kind = RequestError::Kind::kMalformed;
  std::string message;
  std::string param;
  int status = 0;  // 401, 404, 405, 413, 500 where no kind says it; else 0
};

struct Dialect {
  std::string name;
  std::vector<Route> routes;
  std::function<void(const Failure&, const HttpRequest&, Reply&)> error;
};

// Two dialects of one name abort the process at start.
struct RegisterDialect {
  explicit RegisterDialect(Dialect dialect);
};
// Sorted by name.
std::span<const Dialect> dialects();

// The routes of one (method, path), each with its dialect; the table of a server.
class Router {
 public:
  explicit Router(std::span<const Dialect> dialects);
  struct Match {
    const Route* route = nullptr;  // nullptr: unknown path
    const Dialect* dialect = nullptr;
    bool wrong_method = false;                // the path exists with other methods
    std::vector<std::string> arguments = {};  // what stands for each {}
  };
  // Before the body is known: the highest priority of (method, path); decides who reports errors. HEAD falls back to
  // GET.
  Match find(std::string_view method, std::string_view path) const;
  Match find(const HttpRequest& request) const;
  // Every route that claims the request: exactly one for a well-formed request.
  std::vector<Match> claimants(const HttpRequest& request) const;

 private:
  std::vector<Match> entries_;  // by literal text of the path, then priority, both descending, then name
};

}  // namespace sluice
