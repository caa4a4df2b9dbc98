// SPDX-License-Identifier: Apache-2.0
// Runs of several ranks on this machine: as threads of the test, or as forked processes that can be killed.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "control/control.h"

namespace sluice {

// A run of `world` ranks with its own SLUICE_HOME, removed at the end.
class TestRun {
 public:
  explicit TestRun(int world);
  ~TestRun();
  TestRun(const TestRun&) = delete;
  TestRun& operator=(const TestRun&) = delete;

  Launch launch(int rank) const;
  Hello hello(int rank) const;  // of this process, as `rank`
  ControlOptions options() const;
  std::unique_ptr<ControlPlane> form(int rank) const {
    return ControlPlane::form(options(), launch(rank), hello(rank));
  }
  int first_port() const;
  int world() const { return world_; }

  // Every rank forms and runs `body` on a thread of its own. Errors thrown, by rank; empty where none was.
  std::vector<std::string> on_threads(const std::function<void(ControlPlane&)>& body) const;

  double formation_seconds = 20;
  double silence_seconds = 5;
  std::filesystem::path home;

 private:
  int world_;
  std::string id_;
};

// Forks; the child runs `body` and exits with its result, or with 99 after an exception.
pid_t fork_child(const std::function<int()>& body);
// Exit code of the child, 128 + signal, or -1 when it is still there after `seconds` (it is then killed).
int wait_child(pid_t pid, double seconds);
// User and system time of a process so far, in seconds.
double cpu_seconds(pid_t pid);

}  // namespace sluice
