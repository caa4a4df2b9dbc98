// SPDX-License-Identifier: Apache-2.0
#include "api/pump.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>

#include "base/clock.h"
#include "base/log.h"

namespace sluice {
namespace {

constexpr size_t kChunkHead = 10;  // "0000abcd\r\n"

enum class Sent { kAll, kFull, kBroken };

// As much as the socket takes at once; `data` becomes the rest.
Sent send_now(int fd, std::string_view& data) {
  while (!data.empty()) {
    const ssize_t n = ::send(fd, data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0)
      data.remove_prefix(static_cast<size_t>(n));
    else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return Sent::kFull;
    else if (n == 0 || errno != EINTR)
      return Sent::kBroken;
  }
  return Sent::kAll;
}

}  // namespace

bool send_all(int fd, std::string_view data, double seconds) {
  while (true) {
    const Sent sent = send_now(fd, data);
    if (sent != Sent::kFull) return sent == Sent::kAll;
    pollfd p{fd, POLLOUT, 0};
    int ready;
    do ready = poll(&p, 1, static_cast<int>(seconds * 1000) + 1);
    while (ready < 0 && errno == EINTR);
    if (ready <= 0 || (p.revents & (POLLERR | POLLHUP)) != 0) return false;
  }
}

StreamPump::StreamPump(double stall, double silence) : stall_(stall), silence_(silence), thread_([this] { loop(); }) {}

StreamPump::~StreamPump() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void StreamPump::push(std::shared_ptr<Stream> stream) {
  bool notify;
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(stream));
    notify = std::exchange(sleeping_, false);
  }
  if (notify) wake_.notify_one();
}

void StreamPump::loop() {
  pthread_setname_np(pthread_self(), "streams");
  std::vector<std::shared_ptr<Stream>> turn;  // swapped with the queue, so that capacity circulates
  while (true) {
    {
      std::unique_lock lock(mutex_);
      while (queue_.empty() && !closing_) {
        sleeping_ = true;
        wake_.wait(lock);
      }
      sleeping_ = false;
      if (queue_.empty()) return;
      turn.swap(queue_);
    }
    for (const auto& stream : turn) stream->serve();
    turn.clear();
  }
}

void StreamPump::Stream::ready() {
  State state = state_.load();
  while (true) {
    switch (state) {
      case State::kResting:
        if (state_.compare_exchange_weak(state, State::kQueued)) return pump_.push(shared_from_this());
        break;
      case State::kBusy:
        if (state_.compare_exchange_weak(state, State::kBusyAgain)) return;
        break;
      default:
        return;
    }
  }
}

void StreamPump::Stream::serve() {
  render();
  if (send_some() && !ended_) {
    if (rest()) return;
    state_ = State::kQueued;  // behind the others
    return pump_.push(shared_from_this());
  }
  {
    std::lock_guard lock(mutex_);
    returned_ = true;
  }
  wake_.notify_one();
}

void StreamPump::Stream::render() try {
  state_ = State::kBusy;
  out_.assign(chunked_ ? kChunkHead : 0, '0');
  ended_ = !reply_->stream(out_);
  frame();
} catch (const std::exception& error) {
  log_error(fmt::format("a streamed reply broke off: {}", error.what()));
  ended_ = broken_ = true;
  out_.clear();
}

void StreamPump::Stream::frame() {
  sent_ = 0;
  if (!chunked_) return;
  const size_t size = out_.size() - kChunkHead;
  if (size > 0) {
    static const char kHex[] = "0123456789abcdef";
    for (size_t i = 8, rest = size; i-- > 0; rest >>= 4) out_[i] = kHex[rest & 15];
    out_[8] = '\r';
    out_[9] = '\n';
    out_ += "\r\n";
  } else {
    out_.clear();
  }
  if (ended_) out_ += "0\r\n\r\n";
}

bool StreamPump::Stream::send_some() {
  if (out_.empty()) return !broken_;
  std::string_view left = out_;
  const Sent sent = send_now(fd_, left);
  broken_ = broken_ || sent == Sent::kBroken;
  sent_ = out_.size() - left.size();
  written_ = monotonic_seconds();
  return sent == Sent::kAll;
}

bool StreamPump::Stream::rest() {
  State state = State::kBusy;
  return state_.compare_exchange_strong(state, State::kResting);
}

// False: the time has come first, and the stream is the connection's again.
bool StreamPump::Stream::wait_returned(double until) {
  const auto returned = [this] { return returned_; };
  std::unique_lock lock(mutex_);
  if (reply_->keep_alive.empty()) {
    wake_.wait(lock, returned);
  } else {
    while (!wake_.wait_for(lock, std::chrono::duration<double>(until - monotonic_seconds()), returned)) {
      State state = State::kResting;
      if (state_.compare_exchange_strong(state, State::kBusy)) return false;
      until = monotonic_seconds() + pump_.silence_;  // the pump is about to write
    }
  }
  returned_ = false;
  return true;
}

bool StreamPump::Stream::write(int fd, bool chunked, Reply& reply) {
  fd_ = fd;
  chunked_ = chunked;
  reply_ = &reply;
  written_ = monotonic_seconds();
  render();
  while (true) {
    if (!broken_ && sent_ < out_.size()) {
      broken_ = !send_all(fd_, std::string_view(out_).substr(sent_), pump_.stall_);
      written_ = monotonic_seconds();
    }
    if (ended_ || broken_) break;
    sent_ = out_.size();
    const double until = written_ + pump_.silence_;
    if (!rest()) {
      render();
    } else if (!wait_returned(until) && monotonic_seconds() >= written_ + pump_.silence_) {
      out_.assign(chunked_ ? kChunkHead : 0, '0');
      out_ += reply.keep_alive;
      frame();
    }
  }
  state_ = State::kOver;
  return !broken_;
}

}  // namespace sluice
