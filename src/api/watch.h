// SPDX-License-Identifier: Apache-2.0
// Notices within milliseconds that a client has gone, for any number of sockets, with one thread that otherwise sleeps.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>

namespace sluice {

class ClientWatch {
 public:
  ClientWatch();
  ~ClientWatch();

  // `gone` runs once, on the watching thread, when the peer of `fd` closes or resets. It must not block.
  // A client that only closes its sending side counts as gone too.
  uint64_t add(int fd, std::function<void()> gone);
  // After this `gone` neither runs nor will run. The descriptor must still be open.
  void remove(int fd, uint64_t ticket);

 private:
  void loop();
  int epoll_ = -1, wake_ = -1;
  std::mutex mutex_;
  uint64_t next_ = 1;
  std::unordered_map<uint64_t, std::function<void()>> waiting_;
  std::thread thread_;
};

}  // namespace sluice
