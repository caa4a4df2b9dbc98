// SPDX-License-Identifier: Apache-2.0
#include "api/pool.h"

#include <malloc.h>
#include <pthread.h>

#include <chrono>

namespace sluice {
namespace {

// Address space; only touched pages count. The thread sanitizer keeps its own state there too.
#ifdef __SANITIZE_THREAD__
constexpr size_t kStackBytes = 8 << 20;
#else
constexpr size_t kStackBytes = 1 << 20;
#endif
constexpr auto kIdleTime = std::chrono::seconds(2);  // a thread with nothing to do for so long leaves

}  // namespace

ElasticPool::~ElasticPool() {
  std::unique_lock lock(mutex_);
  closing_ = true;
  work_.notify_all();
  empty_.wait(lock, [this] { return threads_ == 0; });
}

bool ElasticPool::run(std::function<void()> task) {
  std::unique_lock lock(mutex_);
  tasks_.push_back(std::move(task));
  if (idle_ >= tasks_.size()) {
    work_.notify_one();
    return true;
  }
  ++threads_;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  auto entry = [](void* self) -> void* {
    static_cast<ElasticPool*>(self)->loop();
    return nullptr;
  };
  int error = pthread_create(&thread, &attributes, entry, this);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    --threads_;
    tasks_.pop_back();
    return false;
  }
  return true;
}

void ElasticPool::wait_empty() {
  std::unique_lock lock(mutex_);
  empty_.wait(lock, [this] { return busy_ == 0 && tasks_.empty(); });
}

void ElasticPool::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (tasks_.empty()) {
      if (closing_) break;
      ++idle_;
      const bool woken = work_.wait_for(lock, kIdleTime, [this] { return closing_ || !tasks_.empty(); });
      --idle_;
      if (!woken) break;
      continue;
    }
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    ++busy_;
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
    --busy_;
    if (busy_ == 0 && tasks_.empty()) empty_.notify_all();
  }
  if (threads_ == 1 && !closing_) {  // the last one gives back what the busy time took
    lock.unlock();
    malloc_trim(0);
    lock.lock();
  }
  --threads_;
  empty_.notify_all();
}

}  // namespace sluice
