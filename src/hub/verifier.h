// SPDX-License-Identifier: Apache-2.0
// Digests files while they arrive and sends them to the disk: one thread follows each file's gapless beginning.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "hub/part_file.h"

namespace sluice {

class Verifier {
 public:
  struct Verdict {
    std::shared_ptr<PartFile> part;
    std::string digest;
    std::string error;  // reading failed
  };

  Verifier();
  ~Verifier();
  Verifier(const Verifier&) = delete;
  Verifier& operator=(const Verifier&) = delete;

  void follow(std::shared_ptr<PartFile> part, std::string expected);
  void forget(const std::shared_ptr<PartFile>& part);  // no verdict comes for it
  // Of a file that is complete, and on the disk if its digest is the expected one; does not wait.
  std::optional<Verdict> next();

 private:
  struct Task {
    std::shared_ptr<PartFile> part;
    std::string expected;
  };
  void run();
  bool dropped(const Task& task);
  std::optional<Verdict> digest(const Task& task);  // nullopt when dropped

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  std::deque<Verdict> verdicts_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace sluice
