// SPDX-License-Identifier: Apache-2.0
// The HTTP server of rank 0: the port, the key, the routes of all dialects. Answers from construction on; the model may
// come later. Owned by the app.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "api/dialect.h"
#include "api/metrics.h"
#include "api/service.h"
#include "api/transport.h"

namespace sluice {

struct ServerOptions {
  std::string host = "0.0.0.0";
  std::vector<int> ports;    // candidates in order, the first free one is taken; {0}: any
  std::string key;           // asked for by every route that is not open; empty: none is asked (AUTH=none)
  std::string job_id;        // sent as x-job-id when not empty
  std::string request_log;   // file for one JSON line per request, "-" for standard error; empty: none
  bool log_prompts = false;  // prompts go into it too
  std::vector<std::string> origins = {"local"};  // pages of other servers that may call this one; see origin_allowed
  std::vector<std::string> names = {"*"};        // Host headers answered without a key; see host_allowed
  TransportOptions transport;
};

class Server {
 public:
  // Binds and answers 503 at once. Throws Error when no port is free.
  explicit Server(ServerOptions options, std::span<const Dialect> dialects = sluice::dialects());
  ~Server();

  int port() const { return port_; }
  Metrics& metrics() { return *metrics_; }

  void ready(const Service& service);  // which outlives the server
  void drain();                        // new requests for the model get 503; those under way go on
  void stop(double grace);             // see Transport::stop
  int connections() const;

 private:
  struct Impl;
  int port_ = 0;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
