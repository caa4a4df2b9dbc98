// SPDX-License-Identifier: Apache-2.0
// The compute threads of one backend. The caller is thread 0; the others spin briefly between tasks and then sleep, so
// that an idle rank costs nothing. One caller at a time. Owned by the backend.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace sluice {

class Pool {
 public:
  // spin: whether threads may wait by spinning; false where threads outnumber the cores. Throws Error where the system
  // gives fewer threads.
  Pool(int threads, bool spin);
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool();

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // task(thread) once on every thread; returns when all are done.
  template <class Task>
  void run(const Task& task) {
    run_raw([](const void* t, int thread) { (*static_cast<const Task*>(t))(thread); }, &task);
  }
  // task(begin, end, thread) over [0, n) in pieces of at most `chunk`. Each thread has a share of successive pieces,
  // so that what it does next is known; who is through with his own takes from the others'.
  template <class Task>
  void split(int64_t n, int64_t chunk, const Task& task) {
    if (n <= chunk || workers_.empty()) {
      if (n > 0) task(int64_t{0}, n, 0);
      return;
    }
    share_out(n, chunk);
    run([&](int thread) {
      for (int i = 0; i < threads(); ++i) {
        Share& share = shares_[static_cast<size_t>((thread + i) % threads())];
        for (int64_t begin; (begin = share.next.fetch_add(chunk, std::memory_order_relaxed)) < share.end;) {
          task(begin, begin + chunk < share.end ? begin + chunk : share.end, thread);
        }
      }
    });
  }

 private:
  using Raw = void (*)(const void* task, int thread);
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  void share_out(int64_t n, int64_t chunk);
  void run_raw(Raw call, const void* task);
  void work(int thread);
  void stop();

  int spins_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<int32_t> pending_{0};
  Raw call_ = nullptr;
  const void* task_ = nullptr;
  bool stop_ = false;
  std::vector<Share> shares_;  // one per thread
  std::vector<std::thread> workers_;
};

}  // namespace sluice
