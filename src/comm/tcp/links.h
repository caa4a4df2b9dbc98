// SPDX-License-Identifier: Apache-2.0
// Connections to the other ranks and the messages on them. Every message has a channel, and a receiver takes those of
// one channel in their order, whatever else arrives before. One thread makes the calls; a second one only writes what a
// send() had to leave behind while the first computes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "comm/tcp/link.h"

namespace sluice::tcp {

class Links {
 public:
  Links(std::vector<int> sockets, bool spin);
  ~Links();  // writes what is left, for a few seconds at most

  // One call of the owner; everything below belongs within one.
  class Turn {
   public:
    explicit Turn(Links& links) : links_(links), lock_(links.mutex_) {}
    ~Turn();

   private:
    Links& links_;
    std::lock_guard<std::mutex> lock_;
  };

  // Begin a transfer with a rank; wait() completes all that have begun. At most one of each kind per rank at a time.
  void begin_send(uint32_t channel, const void* data, size_t bytes, int to);
  void begin_recv(uint32_t channel, void* data, size_t bytes, int from);
  void wait();
  // Returns when `data` may be reused; waits only while kMostQueued bytes are left behind for that rank.
  void send(uint32_t channel, const void* data, size_t bytes, int to);
  static constexpr size_t kMostQueued = size_t{256} << 20;

 private:
  void look_after();
  bool advance();  // one round over all links; true while something is unfinished
  void sleep();    // until a link can move

  const bool spin_;
  std::mutex mutex_;
  std::condition_variable left_behind_;
  std::vector<Link> links_;  // by world rank
  std::vector<pollfd> polled_;
  bool moved_ = false;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace sluice::tcp
