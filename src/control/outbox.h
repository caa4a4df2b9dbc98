// SPDX-License-Identifier: Apache-2.0
// Frames on their way out: one ring shared by all connections of a process, each connection with its own position.
// put() may be called by any thread; flush() only by the I/O thread.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "control/wire.h"

namespace sluice {

class Outbox {
 public:
  // How far one connection has got.
  struct Cursor {
    uint64_t next = 0;  // frame
    size_t offset = 0;  // bytes of it already sent
  };
  enum class Sent { kAll, kSome, kFailed };

  explicit Outbox(size_t backlog) : slots_(backlog + kReserved) {}

  // Copies the parts into a slot as one frame. Messages wait while the backlog is full; control frames use reserved
  // slots and are refused (false) when even these are taken. After close() both return false at once.
  bool put_message(std::span<const std::byte> payload);
  bool put_control(FrameType type, std::string_view payload);
  void close();

  Sent flush(int fd, Cursor& cursor);  // kSome: the socket is full
  void retire(uint64_t oldest);        // frames before `oldest` have been sent to everyone
  uint64_t end() const;                // number of frames put so far
  bool full() const;                   // a message would wait

 private:
  static constexpr size_t kReserved = 16;
  using Slot = std::vector<std::byte>;
  Slot& slot(uint64_t n) { return slots_[n % slots_.size()]; }
  void fill(FrameType type, const std::byte* data, size_t bytes);

  mutable std::mutex mutex_;
  std::condition_variable room_;
  std::vector<Slot> slots_;
  uint64_t head_ = 0, tail_ = 0;  // frames [tail_, head_) are held
  bool closed_ = false;
};

}  // namespace sluice
