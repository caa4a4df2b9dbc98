// SPDX-License-Identifier: Apache-2.0
// Which process answers which chunk of a prompt file, agreed on through a shared folder alone: no daemon, no lock, and
// no operation that NFS or Lustre does not make atomic.
//
//   owners/<id>      who a process is; written once, by rename
//   beats/<id>       rewritten every few seconds while it lives, "left" when it goes
//   claims/<k>.<n>   a link to the owner's file: attempt n at chunk k. n+1 is taken only when the owner of n is dead,
//   so
//                    that nothing is ever removed that somebody may just have made
//   claims/<k>.done  all answers of chunk k are on disk
//
// A claim saves work and decides nothing: two processes that answer one chunk write the same answers.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cluster/command.h"
#include "cluster/launch.h"

namespace sluice {

// A process, as the others tell whether it lives.
struct Owner {
  std::string id;                  // unique: a process that is started again is another owner
  std::string cluster, job, task;  // job: Slurm's id of this array task; task: "148_2" for people; empty outside Slurm
  int restart = 0;                 // how often the job was requeued
  std::string host, boot, pid_space;
  int64_t pid = 0;
  uint64_t started = 0;  // of the process, in clock ticks since boot
};
Owner describe_owner(const Launch& launch, const Environment& environment);
std::string to_string(const Owner& owner);  // "148_2 on n1 (pid 4711)"

struct Claim {
  int64_t chunk = 0;
  int attempt = 0;
  std::vector<std::string> before;  // ids of the owners of earlier attempts
};

class Claims {
 public:
  struct Options {
    std::filesystem::path folder;
    int64_t chunks = 0;
    int64_t first = 0;  // where this process begins to look, so that processes seldom meet
    double beat_seconds = 15;
    double silence_seconds = 180;  // longer than a shared file system may show an old file
    double queue_seconds = 15;     // between two questions to Slurm
    CommandRunner run;             // for squeue; empty: Slurm is not asked
  };
  // Makes the folders. Throws Error.
  Claims(Options options, Owner me);
  ~Claims();  // says that this process has left
  Claims(const Claims&) = delete;
  Claims& operator=(const Claims&) = delete;

  // A chunk that nobody has claimed, or whose owner is dead. nullopt: none now.
  std::optional<Claim> take();
  void finish(int64_t chunk);
  void reopen(int64_t chunk);  // as if it had never been claimed: its answers are not there
  bool all_finished();         // by whomever
  int64_t finished() const;    // as last seen
  // "148_2 on n1 (pid 4711)", ... : who holds what is left.
  std::string holders() const;

 private:
  struct Chunk {
    int attempts = 0;
    bool done = false;
  };
  void refresh();
  bool overdue() const;  // whether another look at the folder costs little beside what has passed since the last
  bool claim(int64_t chunk, int attempt);
  std::filesystem::path claim_path(int64_t chunk, int attempt) const;
  const Owner& owner_of(int64_t chunk, int attempt);
  bool dead(const Owner& owner);
  bool silent(const Owner& owner);
  std::string why_gone(const Owner& owner);
  std::optional<bool> gone_by_slurm(const Owner& owner);
  void beat();

  const Options options_;
  const Owner me_;
  std::filesystem::path mine_;  // this owner's file
  std::vector<Chunk> chunks_;
  int64_t begun_ = 0;                                // chunks from `first` on that all have been claimed
  bool took_over_ = false;                           // the last take() did: the next will find more of the same
  double looked_ = 0, look_seconds_ = 0;             // when the folder was read last, and how long that took
  std::map<std::pair<int64_t, int>, Owner> owners_;  // by claim
  std::map<std::string, int> restarts_;              // by job, the newest seen
  struct Heard {
    std::string beat;
    double since = 0;  // when this beat was first seen
    double met = 0;    // when its owner was
  };
  std::map<std::string, Heard> heard_;  // by owner
  std::set<std::string> dead_;
  std::optional<std::map<std::string, std::string>> queue_;  // job -> state
  double queue_asked_ = -1e9;

  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread beating_;
};

}  // namespace sluice
