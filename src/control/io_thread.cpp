// SPDX-License-Identifier: Apache-2.0
#include "control/io_thread.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>

#include "base/clock.h"
#include "base/error.h"

namespace sluice {
namespace {
void sleep_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }
}  // namespace

IoThread::IoThread(const ControlOptions& options, Formed formed, const Hello& own, size_t backlog, Handlers handlers)
    : options_(options),
      own_(own),
      handlers_(std::move(handlers)),
      outbox_(backlog),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      event_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  check(epoll_ && event_, "epoll_create1 or eventfd failed");
  epoll_event wake{.events = EPOLLIN, .data = {.ptr = nullptr}};
  check(::epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, event_.fd(), &wake) == 0, "epoll_ctl failed");
  for (size_t i = 0; i < formed.sockets.size(); ++i) {
    if (!formed.sockets[i]) continue;
    auto peer = std::make_unique<Peer>();
    peer->rank = own.place.rank == 0 ? static_cast<int>(i) : 0;
    peer->name = to_string(formed.hellos[static_cast<size_t>(peer->rank)]);
    peer->socket = std::move(formed.sockets[i]);
    peer->heard = monotonic_seconds();
    epoll_event event{.events = 0, .data = {.ptr = peer.get()}};
    check(::epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, peer->socket.fd(), &event) == 0, "epoll_ctl failed");
    watch(*peer);
    peers_.push_back(std::move(peer));
  }
  // Signals belong to the threads that wait for them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

IoThread::~IoThread() {
  stop_ = true;
  wake();
  if (thread_.joinable()) thread_.join();
}

void IoThread::wake() noexcept {
  if (woken_.exchange(true)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(event_.fd(), &one, sizeof one);
}

void IoThread::leave(double seconds) {
  outbox_.put_control(FrameType::kGoodbye, {});
  leave_until_ = monotonic_seconds() + std::max(seconds, 0.001);
  wake();
  if (thread_.joinable()) thread_.join();
}

void IoThread::abort(std::string_view reason) noexcept {
  if (abort_claimed_.exchange(true)) return;
  abort_reason_ = reason.substr(0, kMaxReason / 2);
  abort_asked_ = true;
  if (std::this_thread::get_id() == thread_id_.load()) return carry_out_abort();
  wake();
  for (int i = 0; i < 1000 && !over_; ++i) sleep_seconds(0.001);
}

void IoThread::run() {
  thread_id_ = std::this_thread::get_id();
  pthread_setname_np(pthread_self(), "sluice-control");
  double next_beat = monotonic_seconds() + options_.heartbeat_seconds;
  std::array<epoll_event, 64> events;
  while (!over_ && !stop_) {
    const double before = monotonic_seconds();
    double until = next_beat;
    if (const double leave = leave_until_; leave > 0) until = std::min(until, leave);
    const double wait = std::max(0.0, until - before);
    const int n = ::epoll_wait(epoll_.fd(), events.data(), events.size(), static_cast<int>(std::ceil(wait * 1000)));
    const double now = monotonic_seconds();
    // This process itself stood still (suspended, swapped out): what the peers sent meanwhile is still to be read.
    if (now - before > wait + options_.silence_seconds / 2)
      for (auto& peer : peers_) peer->heard = now;
    for (int i = 0; i < n && !over_; ++i) {
      if (events[static_cast<size_t>(i)].data.ptr == nullptr) {
        uint64_t count;
        [[maybe_unused]] const ssize_t got = ::read(event_.fd(), &count, sizeof count);
        woken_ = false;
      } else {
        handle(*static_cast<Peer*>(events[static_cast<size_t>(i)].data.ptr), events[static_cast<size_t>(i)].events);
      }
    }
    for (auto& peer : peers_)
      if (!over_ && peer->socket && peer->reader.stalled()) receive(*peer);
    if (abort_asked_ && !over_) carry_out_abort();
    if (!over_ && now >= next_beat) {
      beat(now);
      next_beat = now + options_.heartbeat_seconds;
    }
    if (!over_) flush();
    if (const double leave = leave_until_; leave > 0 && (everyone_left() || now >= leave)) break;
  }
  over_ = true;
  outbox_.close();
  for (auto& peer : peers_) peer->socket.close();
}

void IoThread::watch(Peer& peer) {
  const uint32_t wanted = (peer.reader.stalled() ? 0u : static_cast<uint32_t>(EPOLLIN)) |
                          (peer.hung_up ? 0u : static_cast<uint32_t>(EPOLLRDHUP)) |
                          (peer.blocked ? static_cast<uint32_t>(EPOLLOUT) : 0u);
  if (wanted == peer.interest) return;
  peer.interest = wanted;
  epoll_event event{.events = wanted, .data = {.ptr = &peer}};
  ::epoll_ctl(epoll_.fd(), EPOLL_CTL_MOD, peer.socket.fd(), &event);
}

void IoThread::handle(Peer& peer, uint32_t events) {
  if (!peer.socket) return;
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) peer.hung_up = true;
  if (events & EPOLLOUT) peer.blocked = false;
  if (events & ~static_cast<uint32_t>(EPOLLOUT)) receive(peer);
  if (peer.socket) watch(peer);
}

void IoThread::receive(Peer& peer) {
  peer.heard = monotonic_seconds();
  std::string aborted;
  const auto state = peer.reader.read(peer.socket.fd(), [&](FrameType type, std::vector<std::byte>& payload) {
    if (type == FrameType::kAbort) {
      if (aborted.empty()) aborted.assign(reinterpret_cast<const char*>(payload.data()), payload.size());
    } else if (type == FrameType::kGoodbye) {
      peer.goodbye = true;
      handlers_.goodbye(peer.rank);
    } else if (type != FrameType::kHeartbeat) {
      return handlers_.frame(peer.rank, type, payload, peer.hung_up);
    }
    return true;
  });
  if (!aborted.empty()) return lose(aborted);
  if (state == FrameReader::State::kOk) return watch(peer);
  peer.socket.close();
  if (state == FrameReader::State::kBroken) return lose(fmt::format("{} sent bytes that are no frame", peer.name));
  if (!peer.goodbye) lose(fmt::format("{} was lost: its connection closed", peer.name));
}

void IoThread::flush() {
  uint64_t oldest = outbox_.end();
  for (auto& peer : peers_) {
    if (!peer->socket) continue;
    if (!peer->blocked) {
      const auto sent = outbox_.flush(peer->socket.fd(), peer->cursor);
      if (sent == Outbox::Sent::kFailed) {
        // What the peer said last may be an abort or a goodbye still unread.
        peer->hung_up = true;
        receive(*peer);
        if (over_) return;
        peer->socket.close();
        if (peer->goodbye) continue;
        return lose(fmt::format("{} was lost: its connection closed", peer->name));
      }
      peer->blocked = sent == Outbox::Sent::kSome;
      watch(*peer);
    }
    oldest = std::min(oldest, peer->cursor.next);
  }
  outbox_.retire(oldest);
}

void IoThread::beat(double now) {
  if (leave_until_ > 0) return;
  const uint64_t end = outbox_.end();
  for (auto& peer : peers_) {
    if (!peer->socket || peer->goodbye) continue;
    // Past the ring, which a slow rank may have filled. A connection with frames waiting needs no other sign of life.
    if (!peer->blocked && peer->cursor.next == end) {
      char header[kFrameHeader];
      frame_header(header, FrameType::kHeartbeat, 0);
      if (!write_all(peer->socket.fd(), {header, sizeof header}, now + 0.01)) peer->hung_up = true;
    }
    // A connection that is not being read says nothing about its peer.
    if (peer->reader.stalled()) continue;
    if (now - peer->heard > options_.silence_seconds) {
      return lose(fmt::format("{} was lost: nothing heard of it for {:.0f} s", peer->name, now - peer->heard));
    }
  }
}

bool IoThread::everyone_left() const {
  const uint64_t end = outbox_.end();
  return std::all_of(peers_.begin(), peers_.end(),
                     [&](const auto& peer) { return !peer->socket || (peer->goodbye && peer->cursor.next == end); });
}

void IoThread::flush_for(double seconds) {
  const double deadline = monotonic_seconds() + seconds;
  for (auto& peer : peers_) {
    while (peer->socket) {
      const auto sent = outbox_.flush(peer->socket.fd(), peer->cursor);
      if (sent != Outbox::Sent::kSome || monotonic_seconds() > deadline) break;
      sleep_seconds(0.001);
    }
  }
}

void IoThread::lose(const std::string& reason) {
  if (over_ || leave_until_ > 0) return;
  abort_claimed_ = true;
  outbox_.put_control(FrameType::kAbort, std::string_view(reason).substr(0, kMaxReason));
  flush_for(0.5);
  outbox_.close();
  for (auto& peer : peers_) peer->socket.close();
  over_ = true;
  handlers_.lost(reason);
}

void IoThread::carry_out_abort() {
  outbox_.put_control(FrameType::kAbort, fmt::format("{} ended: {}", to_string(own_), abort_reason_));
  flush_for(0.5);
  outbox_.close();
  over_ = true;
}

}  // namespace sluice
