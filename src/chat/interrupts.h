// SPDX-License-Identifier: Apache-2.0
// Ctrl-C and TERM for a program that talks: they stop an answer, wake a reader, or end the program while it loads.
#pragma once

#include <atomic>
#include <memory>

#include "cluster/signals.h"

namespace sluice {

class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // Until then a signal ends the process at once: nothing is under way that could be stopped.
  void ready() { ready_ = true; }
  const std::atomic<bool>& stop() const { return stop_; }  // set by any of the signals
  bool leaving() const { return leaving_; }                // TERM
  int wake() const { return wake_; }                       // an eventfd, readable after a signal
  void clear();                                            // before the next answer or line

 private:
  int wake_ = -1;
  std::atomic<bool> ready_{false}, stop_{false}, leaving_{false};
  std::unique_ptr<SignalWatch> watch_;
};

}  // namespace sluice
