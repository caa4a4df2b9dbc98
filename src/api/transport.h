// SPDX-License-Identifier: Apache-2.0
// Sockets, threads and HTTP framing under the server: one thread per connection, made when none is idle. The only file
// besides its .cpp that knows there is a library underneath.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/http.h"

namespace sluice {

struct TransportOptions {
  size_t max_body = 2'000'000;              // bytes, counted as they arrive (PAYLOAD_LIMIT)
  size_t max_head = 65536;                  // bytes of request line and headers
  int max_connections = 4096;               // beyond: 503 and close
  double head_seconds = 10;                 // from a request's first byte to the end of its headers
  double body_seconds = 30;                 // longest silence within a body
  double idle_seconds = 75;                 // between requests of one connection
  double write_seconds = 15;                // longest time a reader may take nothing before its request is cancelled
  double silence_seconds = 15;              // of a stream, after which Reply::keep_alive goes out
  std::function<void(int change)> counted;  // told of each connection opened (+1) and closed (-1)
};

enum class BodyResult { kOk, kTooLarge, kMalformed, kUnsupported, kBroken };

// A listening socket with a backlog of 4096. Tries the ports in order and passes over those in use;
// 0 asks the system for one. Throws Error. `port` is the one bound.
int listen_on(const std::string& host, const std::vector<int>& ports, int& port);

class Transport {
 public:
  // Reads the body into the request; to be called at most once. A body that is not read closes the connection.
  using ReadBody = std::function<BodyResult()>;
  using Handler = std::function<void(HttpRequest&, const ReadBody&, Reply&)>;
  // Replies to what cannot be read as a request: 400, 408, 414, 431, 503.
  using Malformed = std::function<void(int status, Reply&)>;

  // Owns `listening` and answers from now on.
  Transport(int listening, TransportOptions options, Handler handler, Malformed malformed);
  ~Transport();  // stop(0)

  // Accepts nothing more, closes idle connections, waits up to `grace` seconds for replies under way, cuts the rest.
  void stop(double grace);
  int connections() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
