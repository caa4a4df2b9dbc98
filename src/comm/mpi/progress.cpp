// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/progress.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <csignal>

namespace sluice::mpi {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr microseconds kSpin{40};
constexpr microseconds kYield{300};
constexpr microseconds kFirstSleep{20}, kLongestSleep{200};
constexpr microseconds kSendingPause{50}, kIdlePause{1000};
constexpr int kQuietRounds = 5;  // pauses without a call before the thread parks
constexpr size_t kPiece = 1u << 30;

template <class Post>
int in_pieces(size_t bytes, Post post) {
  size_t begin = 0;
  do {
    const size_t n = std::min(kPiece, bytes - begin);
    if (const int rc = post(begin, static_cast<int>(n)); rc != MPI_SUCCESS) return rc;
    begin += n;
  } while (begin < bytes);
  return MPI_SUCCESS;
}

}  // namespace

int post_send(MPI_Comm comm, const void* data, size_t bytes, int to, int tag, std::vector<MPI_Request>& requests) {
  return in_pieces(bytes, [&](size_t begin, int n) {
    requests.emplace_back();
    return MPI_Isend(static_cast<const char*>(data) + begin, n, MPI_BYTE, to, tag, comm, &requests.back());
  });
}

int post_recv(MPI_Comm comm, void* data, size_t bytes, int from, int tag, std::vector<MPI_Request>& requests) {
  return in_pieces(bytes, [&](size_t begin, int n) {
    requests.emplace_back();
    return MPI_Irecv(static_cast<char*>(data) + begin, n, MPI_BYTE, from, tag, comm, &requests.back());
  });
}

void Progress::start(MPI_Comm world, bool spin) {
  world_ = world;
  spin_ = spin;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { look_after(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Progress::stop() {
  {
    std::lock_guard lock(park_);
    stop_ = true;
  }
  unpark_.notify_all();
  if (thread_.joinable()) thread_.join();
  std::lock_guard lock(mpi_);
  while (!sends_.empty() && retire_sends() == MPI_SUCCESS) sched_yield();
}

Progress::Turn::Turn(Progress& progress) : progress_(progress), lock_(progress.mpi_) {}

Progress::Turn::~Turn() {
  ++progress_.turns_;
  if (!progress_.parked_) return;
  { std::lock_guard lock(progress_.park_); }  // it is waiting, not about to
  progress_.unpark_.notify_one();
}

int Progress::wait(std::vector<MPI_Request>& requests) {
  int done = 0;
  Clock::time_point start;
  microseconds sleep = kFirstSleep;
  for (int round = 0;; ++round) {
    const int rc = MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (rc != MPI_SUCCESS) return rc;
    if (done) break;
    if (round == 0) start = Clock::now();
    const auto waited = Clock::now() - start;
    if (spin_ && waited < kSpin) continue;
    if (waited < kYield) {
      sched_yield();
      continue;
    }
    std::this_thread::sleep_for(sleep);
    sleep = std::min(sleep * 3 / 2, kLongestSleep);
  }
  requests.clear();
  return sends_.empty() ? MPI_SUCCESS : retire_sends();
}

int Progress::send(MPI_Comm comm, const void* data, size_t bytes, int to, int tag) {
  if (sends_.size() >= kMaxSends) {
    if (const int rc = wait(sends_.front().requests); rc != MPI_SUCCESS) return rc;
  }
  if (const int rc = retire_sends(); rc != MPI_SUCCESS) return rc;
  Send send;
  if (!unused_.empty()) {
    send = std::move(unused_.back());
    unused_.pop_back();
  }
  const char* from = static_cast<const char*>(data);
  send.bytes.assign(from, from + bytes);
  sends_.push_back(std::move(send));
  sending_ = true;
  const int rc = post_send(comm, sends_.back().bytes.data(), bytes, to, tag, sends_.back().requests);
  return rc == MPI_SUCCESS ? retire_sends() : rc;  // a short message is gone at once
}

int Progress::retire_sends() {
  for (size_t i = 0; i < sends_.size();) {
    int done = 0;
    auto& requests = sends_[i].requests;
    const int rc = MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (rc != MPI_SUCCESS) return rc;
    if (!done) {
      ++i;
      continue;
    }
    requests.clear();
    unused_.push_back(std::move(sends_[i]));
    sends_.erase(sends_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  sending_ = !sends_.empty();
  return MPI_SUCCESS;
}

void Progress::look_after() {
  pthread_setname_np(pthread_self(), "sluice-mpi");
  unsigned seen = 0;
  int quiet = 0;
  std::unique_lock park(park_);
  while (!stop_) {
    if (turns_ != seen) {
      seen = turns_;
      quiet = 0;
    }
    if (quiet >= kQuietRounds && !sending_) {
      parked_ = true;
      unpark_.wait(park, [&] { return stop_ || turns_ != seen; });
      parked_ = false;
      continue;
    }
    ++quiet;
    unpark_.wait_for(park, sending_ ? kSendingPause : kIdlePause, [&] { return stop_; });
    std::unique_lock turn(mpi_, std::try_to_lock);
    if (!turn) continue;  // the owner is inside MPI and moves everything on
    // Errors show again, with a name, at the owner's next call.
    int flag = 0;
    retire_sends();
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, world_, &flag, MPI_STATUS_IGNORE);
  }
}

}  // namespace sluice::mpi
