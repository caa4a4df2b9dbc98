// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "base/error.h"

namespace sluice {
namespace {
constexpr int kSpins = 4000;  // about 50 us, the gap between two operations of a step

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}
}  // namespace

Pool::Pool(int threads, bool spin) : spins_(spin ? kSpins : 0), shares_(static_cast<size_t>(threads)) {
  try {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
  } catch (const std::system_error& error) {
    const size_t made = workers_.size() + 1;
    stop();
    throw Error(fmt::format("the system gives {} of {} compute threads ({}); lower --threads, or raise ulimit -u", made,
                            threads, error.code().message()));
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::share_out(int64_t n, int64_t chunk) {
  const int64_t pieces = (n + chunk - 1) / chunk, count = threads();
  for (int64_t i = 0; i < count; ++i) {
    Share& share = shares_[static_cast<size_t>(i)];
    share.next.store(pieces * i / count * chunk, std::memory_order_relaxed);
    share.end = std::min(n, pieces * (i + 1) / count * chunk);
  }
}

void Pool::run_raw(Raw call, const void* task) {
  if (workers_.empty()) {
    call(task, 0);
    return;
  }
  call_ = call;
  task_ = task;
  pending_.store(static_cast<int32_t>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  call(task, 0);
  for (int i = 0; i < spins_ && pending_.load(std::memory_order_acquire) != 0; ++i) relax();
  for (int32_t left; (left = pending_.load(std::memory_order_acquire)) != 0;)
    pending_.wait(left, std::memory_order_acquire);
}

void Pool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    for (int i = 0; i < spins_ && generation_.load(std::memory_order_acquire) == seen; ++i) relax();
    generation_.wait(seen, std::memory_order_acquire);
    ++seen;
    if (stop_) return;
    call_(task_, thread);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  }
}

}  // namespace sluice
