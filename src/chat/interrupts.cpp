// SPDX-License-Identifier: Apache-2.0
#include "chat/interrupts.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>

#include "base/error.h"

namespace sluice {

Interrupts::Interrupts() : wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  check(wake_ >= 0, "waiting for signals failed");
  watch_ = std::make_unique<SignalWatch>([this](int signal, int) {
    if (!ready_) leave_start(signal, 128 + signal);
    if (signal == SIGTERM) leaving_ = true;
    stop_ = true;
    const uint64_t one = 1;
    if (::write(wake_, &one, sizeof one) < 0) leaving_ = true;
  });
}

Interrupts::~Interrupts() {
  watch_.reset();
  ::close(wake_);
}

void Interrupts::clear() {
  stop_ = leaving_.load();
  uint64_t count;
  while (::read(wake_, &count, sizeof count) > 0) {
  }
}

}  // namespace sluice
