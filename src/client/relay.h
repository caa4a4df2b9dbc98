// SPDX-License-Identifier: Apache-2.0
// A local HTTP relay: takes requests, sends each to the backend that `choose` names, with that backend's key added, and
// hands the answer back as it comes. One request per connection on both sides, so a stream needs no framing of ours.
// Used by `connect` (one backend) and `route` (many).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/http_client.h"

namespace sluice {

struct RelayTarget {
  Url url;
  std::string key;   // added as a bearer token where the request has none; empty: nothing is added
  uint64_t tag = 0;  // the chooser's own
};

struct RelayRequest {
  std::string method, path;  // path with query
  std::string body;
  int attempt = 0;               // 0, then one more for each target that failed
  std::vector<uint64_t> failed;  // tags of those
};

enum class RelayOutcome {
  kAnswered,  // bytes of an answer went to the client, or the client left
  kNoAnswer,  // nothing came back: the request may go elsewhere
  kRefused,   // 503 or 429: likewise
};

struct RelayOptions {
  std::string host = "127.0.0.1";
  int port = 0;             // 0: any
  std::string unix_socket;  // listens there (mode 0600) instead
  size_t max_body = 64 << 20;
  int max_connections = 2048;
  // Who may use it. On a shared login node a loopback port is everybody's: own_user refuses connections whose socket
  // belongs to another user (by /proc/net/tcp). A key is asked for as servers do, except on /health and HEAD /.
  bool own_user = false;
  std::string key;
  double connect_seconds = 5;
  double silence_seconds = 3600;  // longest wait for the next bytes of an answer
};

class Relay {
 public:
  // Where the request goes; nullopt: nowhere now, the client gets 503 with `why` and Retry-After, as it does where an
  // Error is thrown. Called on a connection's thread; may block for a moment.
  using Choose = std::function<std::optional<RelayTarget>(const RelayRequest&, std::string& why)>;
  using Ended = std::function<void(const RelayTarget&, RelayOutcome)>;
  // An answer of the relay's own, JSON, for paths that it serves itself; nullopt: relayed.
  using Own = std::function<std::optional<std::string>(std::string_view method, std::string_view path)>;

  // Listens from construction on. Throws Error when the port or socket is taken.
  Relay(RelayOptions options, Choose choose, Ended ended, Own own = {});
  ~Relay();  // stops accepting, ends connections, joins

  int port() const { return port_; }
  int connections() const;

 private:
  struct Impl;
  int port_ = 0;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
