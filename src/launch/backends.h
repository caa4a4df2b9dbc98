// SPDX-License-Identifier: Apache-2.0
// Which of several servers of one model takes the next request. Thread-safe; no I/O.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct BackendState {
  uint64_t tag = 0;  // hash of its name
  std::string name;  // job id or URL
  bool healthy = false;
  int64_t reported = 0;   // running and waiting requests by its own metrics, when last asked
  int64_t in_flight = 0;  // sent by this router and not ended
  int64_t failures = 0;   // in a row
  double idle_since = 0;  // monotonic seconds; 0 while busy
};

class Backends {
 public:
  // Keeps the state of names that stay; new ones start unhealthy.
  void update(const std::vector<std::string>& names, double now);
  void report(const std::string& name, bool healthy, int64_t load, double now);

  // The healthy backend with the least work, of equals the one that rendezvous hashing gives the prefix, so that
  // requests that begin alike meet the same prefix cache; up to `slack` requests more than the least are accepted for
  // that. Those in `excluded` are passed over. Counts the request as in flight.
  std::optional<uint64_t> choose(std::string_view prefix, const std::vector<uint64_t>& excluded, int64_t slack = 4);
  // A request ended; `failed`: the backend did not answer, and is unhealthy until it reports again.
  void ended(uint64_t tag, bool failed, double now);

  std::vector<BackendState> all() const;
  std::string name_of(uint64_t tag) const;  // empty when it is gone

 private:
  mutable std::mutex mutex_;
  std::vector<BackendState> backends_;
};

// What requests that can share a prefix cache have in common: the beginning of the prompt or messages in a JSON body.
std::string_view prompt_prefix(std::string_view body);

}  // namespace sluice
