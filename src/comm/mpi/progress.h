// SPDX-License-Identifier: Apache-2.0
// Waiting for MPI without burning a core, and moving it on while this process does something else.
#pragma once

#include <mpi.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace sluice::mpi {

// MPI progresses only inside its calls: a long message would stay half sent while its sender waits for the next Step.
// So the sends that are under way belong to this object, and a thread of it looks after them between the calls of the
// owner, never at the same time (MPI_THREAD_SERIALIZED). It sleeps for good once nothing has happened for a while.
class Progress {
 public:
  // world: any communicator. spin: whether every rank of this host has a CPU to itself.
  void start(MPI_Comm world, bool spin);
  void stop();

  // One call of the owner. Holds MPI for as long as it lives.
  class Turn {
   public:
    explicit Turn(Progress& progress);
    ~Turn();

   private:
    Progress& progress_;
    std::lock_guard<std::mutex> lock_;
  };

  // Within a Turn. Returns an MPI error code. First spins (if there are CPUs for it), then yields, then sleeps for
  // 20 to 200 microseconds at a time.
  int wait(std::vector<MPI_Request>& requests);
  // Copies `data` and sends it in the background; waits only while kMaxSends are under way.
  int send(MPI_Comm comm, const void* data, size_t bytes, int to, int tag);
  static constexpr size_t kMaxSends = 64;

 private:
  struct Send {
    std::vector<char> bytes;
    std::vector<MPI_Request> requests;
  };
  int retire_sends();
  void look_after();

  std::mutex mpi_;  // held during MPI calls
  MPI_Comm world_ = MPI_COMM_NULL;
  bool spin_ = false;
  std::deque<Send> sends_;    // under way, oldest first
  std::vector<Send> unused_;  // their buffers, kept
  std::atomic<bool> sending_{false};
  std::atomic<unsigned> turns_{0};
  std::atomic<bool> parked_{false};
  std::mutex park_;
  std::condition_variable unpark_;
  bool stop_ = false;
  std::thread thread_;
};

// Posts transfers in pieces that fit MPI's int counts.
int post_send(MPI_Comm comm, const void* data, size_t bytes, int to, int tag, std::vector<MPI_Request>& requests);
int post_recv(MPI_Comm comm, void* data, size_t bytes, int from, int tag, std::vector<MPI_Request>& requests);

}  // namespace sluice::mpi
