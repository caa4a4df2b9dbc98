// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/progress.h"

#include <mpi.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <deque>
#include <vector>

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

int post_send(MPI_Comm comm, const void* data, size_t bytes, int to, int tag, std::vector<MPI_Request>& requests) {
  return in_pieces(bytes, [&](size_t begin, int n) {
    requests.emplace_back();
    return MPI_Isend(static_cast<const char*>(data) + begin, n, MPI_BYTE, to, tag, comm, &requests.back());
  });
}

int test_all(std::vector<MPI_Request>& requests, int& done) {
  return MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
}

}  // namespace

struct Progress::State {
  struct Send {
    std::vector<char> bytes;
    std::vector<MPI_Request> requests;
  };
  std::vector<MPI_Comm> comms;        // by the numbers of join()
  std::vector<MPI_Request> requests;  // begun and not waited for
  std::deque<Send> sends;             // under way, oldest first
  std::vector<Send> unused;           // their buffers, kept

  int wait(std::vector<MPI_Request>& waited_for, bool spin);
  int retire_sends();
};

Progress::Progress() : state_(std::make_unique<State>()) {}
Progress::~Progress() = default;

void Progress::start(bool spin) {
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
  while (!state_->sends.empty() && state_->retire_sends() == MPI_SUCCESS) sched_yield();
  for (MPI_Comm& comm : state_->comms) MPI_Comm_free(&comm);
  state_->comms.clear();
}

Progress::Turn::Turn(Progress& progress) : progress_(progress), lock_(progress.mpi_) {}

Progress::Turn::~Turn() {
  ++progress_.turns_;
  if (!progress_.parked_) return;
  { std::lock_guard lock(progress_.park_); }  // it is waiting, not about to
  progress_.unpark_.notify_one();
}

int Progress::join(const int* world_ranks, int n, int& comm) {
  MPI_Group world, members;
  MPI_Comm made = MPI_COMM_NULL;
  if (const int rc = MPI_Comm_group(MPI_COMM_WORLD, &world); rc != MPI_SUCCESS) return rc;
  if (const int rc = MPI_Group_incl(world, n, world_ranks, &members); rc != MPI_SUCCESS) return rc;
  if (const int rc = MPI_Comm_create_group(MPI_COMM_WORLD, members, 0, &made); rc != MPI_SUCCESS) return rc;
  MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN);
  MPI_Group_free(&members);
  MPI_Group_free(&world);
  comm = static_cast<int>(state_->comms.size());
  state_->comms.push_back(made);
  return MPI_SUCCESS;
}

int Progress::begin_send(int comm, const void* data, size_t bytes, int to, int tag) {
  return post_send(state_->comms[static_cast<size_t>(comm)], data, bytes, to, tag, state_->requests);
}

int Progress::begin_recv(int comm, void* data, size_t bytes, int from, int tag) {
  auto& requests = state_->requests;
  return in_pieces(bytes, [&](size_t begin, int n) {
    requests.emplace_back();
    return MPI_Irecv(static_cast<char*>(data) + begin, n, MPI_BYTE, from, tag, state_->comms[static_cast<size_t>(comm)],
                     &requests.back());
  });
}

int Progress::wait() {
  const int rc = state_->wait(state_->requests, spin_);
  sending_ = !state_->sends.empty();
  return rc;
}

int Progress::send(int comm, const void* data, size_t bytes, int to, int tag) {
  auto& sends = state_->sends;
  if (sends.size() >= kMaxSends) {
    if (const int rc = state_->wait(sends.front().requests, spin_); rc != MPI_SUCCESS) return rc;
  }
  if (const int rc = state_->retire_sends(); rc != MPI_SUCCESS) return rc;
  State::Send send;
  if (!state_->unused.empty()) {
    send = std::move(state_->unused.back());
    state_->unused.pop_back();
  }
  const char* from = static_cast<const char*>(data);
  send.bytes.assign(from, from + bytes);
  sends.push_back(std::move(send));
  int rc = post_send(state_->comms[static_cast<size_t>(comm)], sends.back().bytes.data(), bytes, to, tag,
                     sends.back().requests);
  if (rc == MPI_SUCCESS) rc = state_->retire_sends();  // a short message is gone at once
  sending_ = !sends.empty();
  return rc;
}

int Progress::State::wait(std::vector<MPI_Request>& waited_for, bool spin) {
  int done = 0;
  Clock::time_point start;
  microseconds sleep = kFirstSleep;
  for (int round = 0;; ++round) {
    if (const int rc = test_all(waited_for, done); rc != MPI_SUCCESS) return rc;
    if (done) break;
    if (round == 0) start = Clock::now();
    const auto waited = Clock::now() - start;
    if (spin && waited < kSpin) continue;
    if (waited < kYield) {
      sched_yield();
      continue;
    }
    std::this_thread::sleep_for(sleep);
    sleep = std::min(sleep * 3 / 2, kLongestSleep);
  }
  waited_for.clear();
  return sends.empty() ? MPI_SUCCESS : retire_sends();
}

int Progress::State::retire_sends() {
  for (size_t i = 0; i < sends.size();) {
    int done = 0;
    if (const int rc = test_all(sends[i].requests, done); rc != MPI_SUCCESS) return rc;
    if (!done) {
      ++i;
      continue;
    }
    sends[i].requests.clear();
    unused.push_back(std::move(sends[i]));
    sends.erase(sends.begin() + static_cast<std::ptrdiff_t>(i));
  }
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
    state_->retire_sends();
    sending_ = !state_->sends.empty();
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
  }
}

}  // namespace sluice::mpi
