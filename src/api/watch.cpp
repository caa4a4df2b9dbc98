// SPDX-License-Identifier: Apache-2.0
#include "api/watch.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"

namespace sluice {

ClientWatch::ClientWatch() : epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC)) {
  if (epoll_ < 0 || wake_ < 0) throw Error("cannot watch clients: out of file descriptors; raise ulimit -n");
  epoll_event event{};
  event.events = EPOLLIN;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);  // ticket 0
  thread_ = std::thread([this] { loop(); });
}

ClientWatch::~ClientWatch() {
  uint64_t one = 1;
  check(write(wake_, &one, sizeof one) == sizeof one, "eventfd takes one more");
  thread_.join();
  close(wake_);
  close(epoll_);
}

uint64_t ClientWatch::add(int fd, std::function<void()> gone) {
  std::lock_guard lock(mutex_);
  uint64_t ticket = next_++;
  epoll_event event{};
  event.events = EPOLLRDHUP | EPOLLONESHOT;
  event.data.u64 = ticket;
  waiting_.emplace(ticket, std::move(gone));
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) waiting_.erase(ticket);  // writing will notice instead
  return ticket;
}

void ClientWatch::remove(int fd, uint64_t ticket) {
  std::lock_guard lock(mutex_);
  waiting_.erase(ticket);
  epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
}

void ClientWatch::loop() {
  epoll_event events[64];
  while (true) {
    int n = epoll_wait(epoll_, events, 64, -1);
    for (int i = 0; i < n; ++i) {
      if (events[i].data.u64 == 0) return;
      std::lock_guard lock(mutex_);
      auto it = waiting_.find(events[i].data.u64);
      if (it == waiting_.end()) continue;
      it->second();
      waiting_.erase(it);
    }
  }
}

}  // namespace sluice
