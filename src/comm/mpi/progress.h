// SPDX-License-Identifier: Apache-2.0
// Waiting for MPI without burning a core, and moving it on while this process does something else.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>

namespace sluice::mpi {

// MPI progresses only inside its calls: a long message would stay half sent while its sender waits for the next Step.
// So the sends that are under way belong to this object, and a thread of it looks after them between the calls of the
// owner, never at the same time (MPI_THREAD_SERIALIZED). It sleeps for good once nothing has happened for a while.
//
// Every int result is an MPI error code. Transfers name a communicator by the number that join() gave.
class Progress {
 public:
  Progress();
  ~Progress();

  // After MPI_Init. spin: whether every rank of this host has a CPU to itself.
  void start(bool spin);
  void stop();  // waits for the sends under way, frees the communicators

  // One call of the owner. Holds MPI for as long as it lives; everything below belongs within one.
  class Turn {
   public:
    explicit Turn(Progress& progress);
    ~Turn();

   private:
    Progress& progress_;
    std::lock_guard<std::mutex> lock_;
  };

  int join(const int* world_ranks, int n, int& comm);  // called by these ranks alone
  // Begin a transfer, in pieces that fit MPI's int counts; wait() completes all that have begun. It first spins (if
  // there are CPUs for it), then yields, then sleeps for 20 to 200 microseconds at a time.
  int begin_send(int comm, const void* data, size_t bytes, int to, int tag);
  int begin_recv(int comm, void* data, size_t bytes, int from, int tag);
  int wait();
  // Copies `data` and sends it in the background; waits only while kMaxSends are under way.
  int send(int comm, const void* data, size_t bytes, int to, int tag);
  static constexpr size_t kMaxSends = 64;

 private:
  struct State;  // what has MPI's types
  void look_after();

  const std::unique_ptr<State> state_;
  std::mutex mpi_;  // held during MPI calls
  bool spin_ = false;
  std::atomic<bool> sending_{false};
  std::atomic<unsigned> turns_{0};
  std::atomic<bool> parked_{false};
  std::mutex park_;
  std::condition_variable unpark_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace sluice::mpi
