// SPDX-License-Identifier: Apache-2.0
#include "comm/tcp/links.h"

#include <pthread.h>

#include <chrono>
#include <csignal>

namespace sluice::tcp {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kSpin{40};
constexpr int kPollMilliseconds = 1000;
constexpr int kBackgroundMilliseconds = 20;  // the owner may have written on meanwhile
constexpr std::chrono::seconds kLastWrites{5};

}  // namespace

Links::Links(std::vector<int> sockets, bool spin) : spin_(spin) {
  links_.reserve(sockets.size());
  for (size_t r = 0; r < sockets.size(); ++r) links_.emplace_back(static_cast<int>(r), sockets[r]);
  polled_.reserve(links_.size());
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { look_after(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Links::~Links() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  left_behind_.notify_all();
  thread_.join();
}

Links::Turn::~Turn() {
  for (const Link& link : links_.links_) {
    if (link.queued() == 0) continue;
    links_.left_behind_.notify_one();
    return;
  }
}

void Links::begin_send(uint32_t channel, const void* data, size_t bytes, int to) {
  links_[static_cast<size_t>(to)].begin_send(channel, data, bytes);
}

void Links::begin_recv(uint32_t channel, void* data, size_t bytes, int from) {
  links_[static_cast<size_t>(from)].begin_recv(channel, data, bytes);
}

bool Links::advance() {
  bool unfinished = false;
  moved_ = false;
  for (Link& link : links_) {
    if (link.sending() && link.write()) moved_ = true;
    if (link.receiving() && link.read()) moved_ = true;
    unfinished |= link.writing_span() || link.receiving();
  }
  return unfinished;
}

void Links::sleep() {
  polled_.clear();
  for (const Link& link : links_) {
    const int events = (link.sending() ? POLLOUT : 0) | (link.receiving() ? POLLIN : 0);
    if (events != 0) polled_.push_back({link.fd(), static_cast<short>(events), 0});
  }
  ::poll(polled_.data(), polled_.size(), kPollMilliseconds);
}

void Links::wait() {
  Clock::time_point since{};
  while (advance()) {
    if (!spin_) {
      if (!moved_) sleep();
      continue;
    }
    const auto now = Clock::now();
    if (moved_ || since == Clock::time_point{}) since = now;
    if (now - since > kSpin) sleep();
  }
}

void Links::send(uint32_t channel, const void* data, size_t bytes, int to) {
  Link& link = links_[static_cast<size_t>(to)];
  while (link.queued() > kMostQueued) {
    link.write();
    pollfd entry{link.fd(), POLLOUT, 0};
    if (link.queued() > kMostQueued) ::poll(&entry, 1, kPollMilliseconds);
  }
  link.send(channel, data, bytes);
}

void Links::look_after() {
  pthread_setname_np(pthread_self(), "sluice-tcp");
  std::vector<pollfd> full;
  Clock::time_point give_up{};
  std::unique_lock lock(mutex_);
  for (;;) {
    full.clear();
    for (Link& link : links_) {
      if (link.queued() > 0) link.write();
      if (link.queued() > 0) full.push_back({link.fd(), POLLOUT, 0});
    }
    if (stop_ && give_up == Clock::time_point{}) give_up = Clock::now() + kLastWrites;
    if (stop_ && (full.empty() || Clock::now() > give_up)) return;
    if (full.empty()) {
      left_behind_.wait(lock);
      continue;
    }
    lock.unlock();
    ::poll(full.data(), full.size(), kBackgroundMilliseconds);
    lock.lock();
  }
}

}  // namespace sluice::tcp
