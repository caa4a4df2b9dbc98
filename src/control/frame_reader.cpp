// SPDX-License-Identifier: Apache-2.0
#include "control/frame_reader.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace sluice {
namespace {

bool plausible(FrameType type, uint32_t length) {
  switch (type) {
    case FrameType::kMessage:
    case FrameType::kExchanged:
      return length <= kMaxMessage;
    case FrameType::kExchange:
      return length <= kMaxPart + 1024;
    case FrameType::kAbort:
      return length <= kMaxReason;
    case FrameType::kHeartbeat:
    case FrameType::kGoodbye:
      return length == 0;
    case FrameType::kTable:
      return false;  // belongs to the formation
  }
  return false;
}

}  // namespace

// False when the stream is broken.
bool FrameReader::parse(const Handler& handler) {
  for (;;) {
    if (!in_frame_) {
      if (end_ - begin_ < kFrameHeader) return true;
      const char* header = reinterpret_cast<const char*>(buffer_.data() + begin_);
      type_ = static_cast<FrameType>(get_u32(header));
      const uint32_t length = get_u32(header + 4);
      if (!plausible(type_, length)) return false;
      begin_ += kFrameHeader;
      in_frame_ = true;
      have_ = 0;
      payload_.resize(length);
    }
    const size_t take = std::min(end_ - begin_, payload_.size() - have_);
    if (take > 0) std::memcpy(payload_.data() + have_, buffer_.data() + begin_, take);
    begin_ += take;
    have_ += take;
    if (have_ < payload_.size()) return true;
    stalled_ = !handler(type_, payload_);
    if (stalled_) return true;
    in_frame_ = false;
  }
}

FrameReader::State FrameReader::read(int fd, const Handler& handler) {
  for (size_t received = 0; received < (1u << 20);) {
    if (broken_ || !parse(handler)) {
      broken_ = true;
      return State::kBroken;
    }
    if (stalled_) return State::kOk;
    // Long payloads go straight to their place; everything else through the buffer, many frames at a time.
    const size_t rest = in_frame_ ? payload_.size() - have_ : 0;
    const bool direct = rest >= kBuffer;
    if (!direct && begin_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    const ssize_t n = direct ? ::recv(fd, payload_.data() + have_, rest, MSG_DONTWAIT)
                             : ::recv(fd, buffer_.data() + end_, kBuffer - end_, MSG_DONTWAIT);
    if (n > 0) {
      (direct ? have_ : end_) += static_cast<size_t>(n);
      received += static_cast<size_t>(n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
      return State::kClosed;
    } else if (errno == EAGAIN) {
      return State::kOk;
    }
  }
  if (!parse(handler)) return State::kBroken;
  return State::kOk;
}

}  // namespace sluice
