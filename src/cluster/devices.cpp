// SPDX-License-Identifier: Apache-2.0
#include "cluster/devices.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <thread>

#include "base/error.h"
#include "base/file.h"

namespace sluice {
namespace {

int affinity_cpus() {
  for (int room = 1024; room <= 1 << 20; room *= 2) {  // machines with more than 1024 CPUs need a larger mask
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(room));
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(room));
    const bool ok = ::sched_getaffinity(0, bytes, set) == 0;
    const bool small = !ok && errno == EINVAL;
    const int count = ok ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (ok) return std::max(1, count);
    if (!small) break;
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

HostFacts read_host_facts() {
  HostFacts facts;
  char name[HOST_NAME_MAX + 1] = {};
  check(::gethostname(name, sizeof name - 1) == 0, "the host has no name");
  facts.host = name;
  try {
    facts.boot_id = read_file("/proc/sys/kernel/random/boot_id");
    while (!facts.boot_id.empty() && facts.boot_id.back() == '\n') facts.boot_id.pop_back();
  } catch (const Error&) {
    facts.boot_id.clear();
  }
  facts.cpus = affinity_cpus();
  return facts;
}

}  // namespace sluice
