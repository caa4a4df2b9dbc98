// SPDX-License-Identifier: Apache-2.0
// Digests files while they arrive and sends them to the disk: one thread follows the gapless beginning of each.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "hub/digest.h"
#include "hub/part_file.h"

namespace sluice {

class Verifier {
 public:
  struct Verdict {
    std::shared_ptr<PartFile> part;
    std::string digest;
    std::string error;  // reading failed
  };

  explicit Verifier(std::function<void()> decided);  // called by its thread when there is a verdict
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
    Digest digest;
    uint64_t at = 0;  // bytes digested
  };
  void run();
  void step(Task& task);

  const std::function<void()> decided_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Task>> tasks_;
  std::deque<Verdict> verdicts_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace sluice
