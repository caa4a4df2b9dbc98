// SPDX-License-Identifier: Apache-2.0
#include "comm/tcp/link.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "base/error.h"

namespace sluice::tcp {
namespace {

// How long the control plane has to say which rank was lost, and to end this process, before this connection does.
constexpr std::chrono::seconds kSilence{9};

bool again(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

Link::Link(Link&& other) noexcept : rank_(other.rank_), fd_(std::exchange(other.fd_, -1)) {}

Link::~Link() {
  if (fd_ >= 0) ::close(fd_);
}

void Link::lost(int error) {
  std::this_thread::sleep_for(kSilence);
  fatal(fmt::format("the connection to rank {} {}", rank_,
                    error == 0 ? "was closed by it" : fmt::format("failed: {}", std::strerror(error))));
}

Link::Message Link::fresh(uint32_t channel, size_t bytes) {
  Message message;
  if (!storage_.empty()) {
    message = std::move(storage_.back());
    storage_.pop_back();
  }
  message.channel = channel;
  message.done = 0;
  message.bytes.resize(bytes);
  return message;
}

// --- out ---

void Link::begin_send(uint32_t channel, const void* data, size_t bytes) {
  check(span_.left == 0, "two sends to one rank at once");
  span_ = {Header{channel, kMagic, bytes}, static_cast<const char*>(data), sizeof(Header) + bytes};
  write();
}

void Link::send(uint32_t channel, const void* data, size_t bytes) {
  begin_send(channel, data, bytes);
  if (span_.left == 0) return;
  Message rest = fresh(channel, span_.left);
  const size_t of_header = span_.left > bytes ? span_.left - bytes : 0;
  std::memcpy(rest.bytes.data(), reinterpret_cast<const char*>(&span_.header) + sizeof(Header) - of_header, of_header);
  const size_t of_data = span_.left - of_header;
  if (of_data > 0) std::memcpy(rest.bytes.data() + of_header, span_.data + bytes - of_data, of_data);
  queued_ += span_.left;
  queue_.push_back(std::move(rest));
  span_.left = 0;
}

bool Link::write() {
  bool moved = false;
  while (!queue_.empty()) {
    Message& message = queue_.front();
    const ssize_t n =
        ::send(fd_, message.bytes.data() + message.done, message.bytes.size() - message.done, MSG_NOSIGNAL);
    if (n < 0 && again(errno)) return moved;
    if (n < 0) lost(errno);
    moved = true;
    message.done += static_cast<size_t>(n);
    queued_ -= static_cast<size_t>(n);
    if (message.done < message.bytes.size()) continue;
    storage_.push_back(std::move(message));
    queue_.pop_front();
  }
  while (span_.left > 0 && write_span()) moved = true;
  return moved;
}

bool Link::write_span() {
  const size_t bytes = span_.header.bytes;
  const size_t of_header = span_.left > bytes ? span_.left - bytes : 0, of_data = span_.left - of_header;
  iovec parts[2] = {{reinterpret_cast<char*>(&span_.header) + sizeof(Header) - of_header, of_header},
                    {const_cast<char*>(span_.data) + (bytes - of_data), of_data}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  const ssize_t n = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
  if (n < 0 && again(errno)) return false;
  if (n < 0) lost(errno);
  span_.left -= static_cast<size_t>(n);
  return true;
}

// --- in ---

void Link::begin_recv(uint32_t channel, void* data, size_t bytes) {
  check(!wanted_.active, "two receives from one rank at once");
  const auto found = std::ranges::find(kept_, channel, &Message::channel);
  if (found == kept_.end()) {
    wanted_ = {channel, static_cast<char*>(data), bytes, true};
    parse();
    return;
  }
  if (found->bytes.size() != bytes)
    fatal(fmt::format("rank {} sent {} bytes where {} were expected", rank_, found->bytes.size(), bytes));
  if (bytes > 0) std::memcpy(data, found->bytes.data(), bytes);
  storage_.push_back(std::move(*found));
  kept_.erase(found);
}

void Link::begin_message() {
  std::memcpy(&header_, buffer_.data() + begin_, sizeof header_);
  begin_ += sizeof header_;
  check(header_.magic == kMagic, "a peer sent what is no message");
  direct_ = wanted_.active && wanted_.channel == header_.channel;
  if (direct_ && wanted_.bytes != header_.bytes)
    fatal(fmt::format("rank {} sent {} bytes where {} were expected", rank_, header_.bytes, wanted_.bytes));
  if (!direct_) early_ = fresh(header_.channel, header_.bytes);
  to_ = direct_ ? wanted_.data : early_.bytes.data();
  rest_ = header_.bytes;
  inside_ = true;
}

void Link::end_message() {
  inside_ = false;
  if (direct_) {
    wanted_.active = false;
  } else if (wanted_.active && wanted_.channel == header_.channel) {
    // Asked for while it arrived.
    if (early_.bytes.size() != wanted_.bytes)
      fatal(fmt::format("rank {} sent {} bytes where {} were expected", rank_, early_.bytes.size(), wanted_.bytes));
    if (wanted_.bytes > 0) std::memcpy(wanted_.data, early_.bytes.data(), wanted_.bytes);
    storage_.push_back(std::move(early_));
    wanted_.active = false;
  } else {
    kept_.push_back(std::move(early_));
  }
}

// Takes from the buffer as long as somebody waits. Whether anything moved.
bool Link::parse() {
  bool moved = false;
  while (wanted_.active) {
    if (!inside_) {
      if (end_ - begin_ < sizeof(Header)) break;
      begin_message();
    }
    const size_t n = std::min(rest_, end_ - begin_);
    if (n > 0) std::memcpy(to_, buffer_.data() + begin_, n);
    begin_ += n;
    to_ += n;
    rest_ -= n;
    moved = true;
    if (rest_ > 0) break;
    end_message();
  }
  if (begin_ == end_) begin_ = end_ = 0;
  return moved;
}

size_t Link::receive(void* to, size_t bytes) {
  const ssize_t n = ::recv(fd_, to, bytes, 0);
  if (n > 0) return static_cast<size_t>(n);
  if (n < 0 && again(errno)) return 0;
  lost(n == 0 ? 0 : errno);
}

bool Link::read() {
  bool moved = false;
  while (wanted_.active) {
    if (inside_ && begin_ == end_ && rest_ >= kBuffer / 2) {  // long ones go past the buffer
      const size_t n = receive(to_, rest_);
      if (n == 0) return moved;
      to_ += n;
      rest_ -= n;
      moved = true;
      if (rest_ == 0) end_message();
      continue;
    }
    if (begin_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    const size_t n = receive(buffer_.data() + end_, kBuffer - end_);
    if (n == 0) return moved;
    end_ += n;
    moved = true;
    parse();
  }
  return moved;
}

}  // namespace sluice::tcp
