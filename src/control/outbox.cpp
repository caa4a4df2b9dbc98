// SPDX-License-Identifier: Apache-2.0
#include "control/outbox.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace sluice {

void Outbox::fill(FrameType type, const std::byte* data, size_t bytes) {
  Slot& frame = slot(head_);
  frame.resize(kFrameHeader + bytes);
  frame_header(reinterpret_cast<char*>(frame.data()), type, static_cast<uint32_t>(bytes));
  if (bytes > 0) std::memcpy(frame.data() + kFrameHeader, data, bytes);
  ++head_;
}

bool Outbox::put_message(std::span<const std::byte> payload) {
  std::unique_lock lock(mutex_);
  room_.wait(lock, [&] { return closed_ || head_ - tail_ + kReserved < slots_.size(); });
  if (closed_) return false;
  fill(FrameType::kMessage, payload.data(), payload.size());
  return true;
}

bool Outbox::put_control(FrameType type, std::string_view payload) {
  std::lock_guard lock(mutex_);
  if (closed_ || head_ - tail_ >= slots_.size()) return false;
  fill(type, reinterpret_cast<const std::byte*>(payload.data()), payload.size());
  return true;
}

void Outbox::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  room_.notify_all();
}

uint64_t Outbox::end() const {
  std::lock_guard lock(mutex_);
  return head_;
}

bool Outbox::full() const {
  std::lock_guard lock(mutex_);
  return head_ - tail_ + kReserved >= slots_.size();
}

void Outbox::retire(uint64_t oldest) {
  std::lock_guard lock(mutex_);
  if (oldest <= tail_) return;
  const bool was_full = head_ - tail_ + kReserved >= slots_.size();
  tail_ = oldest;
  if (was_full) room_.notify_all();
}

Outbox::Sent Outbox::flush(int fd, Cursor& cursor) {
  constexpr size_t kBatch = 16;
  const uint64_t head = end();
  while (cursor.next < head) {
    // Filled slots before `head` are not written again until they are retired.
    std::array<iovec, kBatch> parts;
    size_t n = 0;
    for (uint64_t f = cursor.next; f < head && n < kBatch; ++f, ++n) {
      const size_t skip = f == cursor.next ? cursor.offset : 0;
      parts[n] = {slot(f).data() + skip, slot(f).size() - skip};
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = n;
    const ssize_t sent = ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN ? Sent::kSome : Sent::kFailed;
    }
    size_t left = static_cast<size_t>(sent);
    while (left > 0) {
      const size_t rest = slot(cursor.next).size() - cursor.offset;
      if (left < rest) {
        cursor.offset += left;
        break;
      }
      left -= rest;
      cursor.offset = 0;
      ++cursor.next;
    }
  }
  return Sent::kAll;
}

}  // namespace sluice
