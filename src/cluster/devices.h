// SPDX-License-Identifier: Apache-2.0
// What this process runs on, measured here and now.
#pragma once

#include <string>

namespace sluice {

struct HostFacts {
  std::string host;     // gethostname, whole
  std::string boot_id;  // /proc/sys/kernel/random/boot_id; empty where unreadable
  int cpus = 1;         // CPUs of the affinity mask, which is what the job was given, not what the machine has
};
HostFacts read_host_facts();

}  // namespace sluice
