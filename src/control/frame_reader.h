// SPDX-License-Identifier: Apache-2.0
// Cuts one connection's byte stream into frames. Owned by the I/O thread; buffers are kept, so that steady traffic
// allocates nothing.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>
#include <vector>

#include "control/wire.h"

namespace sluice {

class FrameReader {
 public:
  enum class State { kOk, kClosed, kBroken };
  // Takes one frame; may swap `payload` away. False: no room now, offer it again at the next read().
  using Handler = std::function<bool(FrameType type, std::vector<std::byte>& payload)>;

  // Receives what `fd` has, at most about 1 MiB per call, and hands complete frames to the handler. kClosed: the peer
  // has closed or the connection failed, all complete frames were handed over. kBroken: not a frame.
  State read(int fd, const Handler& handler);
  bool stalled() const { return stalled_; }  // the handler had no room

 private:
  bool parse(const Handler& handler);

  static constexpr size_t kBuffer = 64 << 10;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kBuffer);
  size_t begin_ = 0, end_ = 0;  // unread part of the buffer
  bool in_frame_ = false;       // header read
  bool stalled_ = false;
  bool broken_ = false;
  FrameType type_{};
  std::vector<std::byte> payload_;
  size_t have_ = 0;  // bytes of payload_ that have arrived
};

}  // namespace sluice
