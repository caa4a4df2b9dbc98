// SPDX-License-Identifier: Apache-2.0
// Keys of jobs that have ended, which nobody asks for any more.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cluster/command.h"
#include "launch/jobs.h"

namespace sluice {

// Removes home/keys/<id>.key of a run whose record says that it has stopped, or whose time limit has passed, and that
// squeue, which must answer, no longer knows: another host, or a cluster with the same home, may run what no process
// here is. None younger than a day after its run's end, none of a service or a router. Returns the ids. squeue is asked
// only where a record gives reason to.
std::vector<std::string> remove_old_keys(const std::filesystem::path& home, const CommandRunner& run,
                                         const LocalFacts& local);

}  // namespace sluice
