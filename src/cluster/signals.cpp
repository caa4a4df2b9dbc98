// SPDX-License-Identifier: Apache-2.0
#include "cluster/signals.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>

#include "base/error.h"

namespace sluice {
namespace {

sigset_t watched() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&set, signal);
  return set;
}

void wait_loop(int signals, int stop, const std::function<void(int, int)>& callback) {
  for (int count = 0;;) {
    pollfd sources[2] = {{signals, POLLIN, 0}, {stop, POLLIN, 0}};
    if (::poll(sources, 2, -1) < 0 && errno != EINTR) return;
    if ((sources[1].revents & POLLIN) != 0) return;
    signalfd_siginfo info;
    if ((sources[0].revents & POLLIN) == 0 || ::read(signals, &info, sizeof info) != sizeof info) continue;
    callback(static_cast<int>(info.ssi_signo), ++count);
  }
}

}  // namespace

void block_signals() {
  const sigset_t set = watched();
  check(::pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0, "blocking signals failed");
  std::signal(SIGPIPE, SIG_IGN);  // a client that goes away is an error of its write, not the end of the server
}

void unblock_signals() {
  const sigset_t set = watched();
  check(::pthread_sigmask(SIG_UNBLOCK, &set, nullptr) == 0, "unblocking signals failed");
}

SignalWatch::SignalWatch(std::function<void(int signal, int count)> callback) : stop_(::eventfd(0, EFD_CLOEXEC)) {
  const sigset_t set = watched();
  const int signals = ::signalfd(-1, &set, SFD_CLOEXEC);
  check(stop_ >= 0 && signals >= 0, "waiting for signals failed");
  thread_ = std::thread([signals, stop = stop_, callback = std::move(callback)] {
    wait_loop(signals, stop, callback);
    ::close(signals);
  });
}

SignalWatch::~SignalWatch() {
  const uint64_t one = 1;
  check(::write(stop_, &one, sizeof one) == sizeof one, "stopping the signal thread failed");
  thread_.join();
  ::close(stop_);
}

const char* signal_name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "TERM";
    case SIGINT:
      return "INT";
    case SIGUSR1:
      return "USR1";
    default:
      return "signal";
  }
}

}  // namespace sluice
