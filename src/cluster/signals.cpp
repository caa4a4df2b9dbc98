// SPDX-License-Identifier: Apache-2.0
#include "cluster/signals.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/log.h"

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

std::mutex stage_mutex;
std::string& stage_text() {
  static std::string text = "starting";
  return text;
}

}  // namespace

void block_signals() {
  const sigset_t set = watched();
  check(::pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0, "blocking signals failed");
}

SignalWatch::SignalWatch(std::function<void(int signal, int count)> callback) : stop_(::eventfd(0, EFD_CLOEXEC)) {
  block_signals();
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

void set_start_stage(std::string stage) {
  const std::lock_guard lock(stage_mutex);
  stage_text() = std::move(stage);
}

std::string start_stage() {
  const std::lock_guard lock(stage_mutex);
  return stage_text();
}

void leave_start(int signal, int exit_code, std::string_view advice) {
  log_warning(fmt::format("{} while {}: leaving at once{}{}", signal_name(signal), start_stage(),
                          advice.empty() ? "" : "; ", advice));
  ::_exit(exit_code);
}

StartWatch::StartWatch(int exit_code)
    : watch_([exit_code](int signal, int) {
        if (!start_stage().empty()) leave_start(signal, exit_code);
      }) {}

}  // namespace sluice
