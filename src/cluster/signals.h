// SPDX-License-Identifier: Apache-2.0
// TERM, INT and USR1 as calls on one thread instead of handlers. Slurm sends TERM to every rank, the job script
// forwards its own.
#pragma once

#include <functional>
#include <thread>

namespace sluice {

// Blocks TERM, INT and USR1 in the calling thread and ignores PIPE. First thing in main: threads started later inherit
// the mask.
void block_signals();

// They end the process again, as they end any program: for what watches for none and has nothing to bring to an end.
void unblock_signals();

// Owns the thread that waits. callback(signal, count): count is 1 for the first of them, 2 for the second, ... It runs
// on that thread.
class SignalWatch {
 public:
  explicit SignalWatch(std::function<void(int signal, int count)> callback);
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;
  ~SignalWatch();  // joins

 private:
  int stop_ = -1;  // eventfd
  std::thread thread_;
};

const char* signal_name(int signal);  // "TERM", "INT", "USR1", else "signal"

}  // namespace sluice
