// SPDX-License-Identifier: Apache-2.0
// TERM, INT and USR1 as calls on one thread instead of handlers. Slurm sends TERM to every rank, the job script
// forwards its own.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <thread>

namespace sluice {

// Blocks TERM, INT and USR1 in the calling thread and those that it starts; nothing unblocks them again.
void block_signals();

// Owns the thread that waits. callback(signal, count): count is 1 for the first of them, 2 for the second, ... It runs
// on that thread. Blocks the signals first: to be made before any other thread. What comes after its end waits for the
// next watch.
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

// What a process that starts is at, for the line of a signal that ends it: "waiting for rank 1". Empty once nothing of
// the start is left. From any thread.
void set_start_stage(std::string stage);
std::string start_stage();
// A process that starts has nothing to bring to an end: says what it was at, and `advice`.
[[noreturn]] void leave_start(int signal, int exit_code, std::string_view advice = {});

// For as long as the start lasts the signals end the process; afterwards they are ignored, because rank 0 decides.
class StartWatch {
 public:
  explicit StartWatch(int exit_code);

 private:
  SignalWatch watch_;
};

}  // namespace sluice
