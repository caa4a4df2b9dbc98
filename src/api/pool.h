// SPDX-License-Identifier: Apache-2.0
// Threads that run tasks at once: a new one is made when none is idle, so a task never waits behind another.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

namespace sluice {

class ElasticPool {
 public:
  ~ElasticPool();  // waits for all tasks

  // False when the system gives no further thread; the task is then not run.
  bool run(std::function<void()> task);
  void wait_empty();  // until no task runs or waits

 private:
  void loop();
  std::mutex mutex_;
  std::condition_variable work_, empty_;
  std::deque<std::function<void()>> tasks_;
  size_t idle_ = 0, busy_ = 0, threads_ = 0;
  bool closing_ = false;
};

}  // namespace sluice
