// SPDX-License-Identifier: Apache-2.0
// The one thread that touches the control connections after the formation: sends what the outbox holds, cuts what
// arrives into frames, keeps heartbeats, and decides that a peer is lost. What the frames mean is the owner's affair.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "control/formation.h"
#include "control/frame_reader.h"
#include "control/outbox.h"

namespace sluice {

class IoThread {
 public:
  struct Handlers {
    // All run on the I/O thread. `from` is a rank. frame() returns false when it has no room; wake() offers the frame
    // again. With must_take the peer has hung up and what it sent last cannot wait.
    std::function<bool(int from, FrameType type, std::vector<std::byte>& payload, bool must_take)> frame;
    std::function<void(int from)> goodbye;
    // The run is over for this process: a peer is lost or has aborted. The peers have been told already.
    std::function<void(const std::string& reason)> lost;
  };

  // Takes the sockets; starts the thread. `own` is this process.
  IoThread(const ControlOptions& options, Formed formed, const Hello& own, size_t backlog, Handlers handlers);
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;
  ~IoThread();  // ends the thread without a goodbye

  Outbox& outbox() { return outbox_; }
  void wake() noexcept;  // something is in the outbox, or there is room again for a frame that was refused

  void abort(std::string_view reason) noexcept;
  void leave(double seconds);

 private:
  struct Peer {
    int rank = 0;
    std::string name;
    Socket socket;
    FrameReader reader;
    Outbox::Cursor cursor;
    double heard = 0;       // monotonic seconds of the last byte
    uint32_t interest = 0;  // epoll events asked for
    bool blocked = false;   // the socket takes no more for now
    bool hung_up = false;   // the peer has closed; what it sent before may still be unread
    bool goodbye = false;
  };

  void run();
  void handle(Peer& peer, uint32_t events);
  void receive(Peer& peer);
  void flush();
  void beat(double now);
  void watch(Peer& peer);
  bool everyone_left() const;
  void lose(const std::string& reason);
  void carry_out_abort();
  void flush_for(double seconds);

  const ControlOptions options_;
  const Hello own_;
  const Handlers handlers_;
  Outbox outbox_;
  std::vector<std::unique_ptr<Peer>> peers_;
  Socket epoll_, event_;
  std::atomic<bool> woken_{false};
  std::atomic<bool> stop_{false};
  std::atomic<double> leave_until_{0};  // monotonic seconds; 0: not leaving
  std::atomic<bool> abort_claimed_{false}, abort_asked_{false}, over_{false};
  std::string abort_reason_;  // written by the claimer before abort_asked_
  std::atomic<std::thread::id> thread_id_;
  std::thread thread_;
};

}  // namespace sluice
