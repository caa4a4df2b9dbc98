// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>

namespace sluice::nccl {

// A thread that calls `look` every `seconds` until it is destroyed: for calls that may wait without end.
class Watch {
 public:
  Watch(double seconds, std::function<void()> look)
      : thread_([seconds, look = std::move(look)](const std::stop_token& stop) {
          std::mutex mutex;
          std::condition_variable_any woken;
          std::unique_lock lock(mutex);
          const std::chrono::duration<double> period(seconds);
          while (!woken.wait_for(lock, stop, period, [&] { return stop.stop_requested(); })) look();
        }) {}

 private:
  std::jthread thread_;
};

}  // namespace sluice::nccl
