// SPDX-License-Identifier: Apache-2.0
// From submission to the first answer: a progress line, then how to reach the server, or why there is none.
#pragma once

#include <string>

namespace sluice {

struct FollowOptions {
  std::string job, log;
  bool json = false;
};
// Returns the exit code: 0 ready, 1 the job has ended, 130 the user left (the job goes on).
int follow_job(const FollowOptions& options);

// The last `lines` lines of a file; empty where it cannot be read.
std::string file_tail(const std::string& path, int lines);

}  // namespace sluice
