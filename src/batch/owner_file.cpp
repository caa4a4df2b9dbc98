// SPDX-License-Identifier: Apache-2.0
#include "batch/owner_file.h"

#include <fmt/format.h>
#include <limits.h>
#include <sys/random.h>
#include <unistd.h>

#include <charconv>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "cluster/devices.h"

namespace sluice {
namespace {

// Field 22 of /proc/<pid>/stat: clock ticks from boot to the process's start. 0: there is no such process.
uint64_t process_start(int64_t pid) {
  std::string text;
  try {
    text = read_file(fmt::format("/proc/{}/stat", pid));
  } catch (const Error&) {
    return 0;
  }
  size_t at = text.rfind(')');
  if (at == std::string::npos) return 0;
  if (text.compare(at, 3, ") Z") == 0) return 0;  // dead, not yet reaped
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = text.find(' ', at + 1);
  uint64_t ticks = 0;
  if (at != std::string::npos) std::from_chars(text.data() + at + 1, text.data() + text.size(), ticks);
  return ticks;
}

std::string pid_space() {
  char text[64];
  const ssize_t n = ::readlink("/proc/self/ns/pid", text, sizeof text);
  return n > 0 ? std::string(text, static_cast<size_t>(n)) : "";
}

}  // namespace

Owner describe_owner(const Launch& launch, const Environment& environment) {
  Owner owner;
  const auto text = [&](const char* name) {
    const char* value = environment(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (launch.job_id) {
    owner.cluster = text("SLURM_CLUSTER_NAME");
    owner.job = std::to_string(*launch.job_id);
    owner.task = launch.array ? fmt::format("{}_{}", launch.array->job, launch.array->task) : owner.job;
    owner.restart = launch.restart_count;
  }
  const HostFacts host = read_host_facts();
  owner.host = host.host;
  owner.boot = host.boot_id;
  owner.pid_space = pid_space();
  owner.pid = ::getpid();
  owner.started = process_start(owner.pid);
  uint64_t random = 0;
  check(::getrandom(&random, sizeof random, 0) == sizeof random, "getrandom failed");
  owner.id = fmt::format("{}-r{}-{}-{}-{:08x}", owner.task.empty() ? "local" : owner.task, owner.restart, owner.host,
                         owner.pid, static_cast<uint32_t>(random));
  return owner;
}

std::string to_string(const Owner& owner) {
  return fmt::format("{} on {} (pid {})", owner.task.empty() ? "a process" : owner.task, owner.host, owner.pid);
}

std::string serialise(const Owner& owner) {
  return fmt::format(
      "id {}\ncluster {}\njob {}\ntask {}\nrestart {}\nhost {}\nboot {}\npid_space {}\npid {}\nstarted {}\nend\n",
      owner.id, owner.cluster, owner.job, owner.task, owner.restart, owner.host, owner.boot, owner.pid_space, owner.pid,
      owner.started);
}

Owner parse_owner(std::string_view text) {
  Owner owner;
  const auto number = [](std::string_view value, auto& out) {
    std::from_chars(value.data(), value.data() + value.size(), out);
  };
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line == "end") return owner;
    const std::string_view name = line.substr(0, line.find(' '));
    const std::string_view value = line.substr(std::min(line.size(), name.size() + 1));
    if (name == "id") owner.id = value;
    if (name == "cluster") owner.cluster = value;
    if (name == "job") owner.job = value;
    if (name == "task") owner.task = value;
    if (name == "restart") number(value, owner.restart);
    if (name == "host") owner.host = value;
    if (name == "boot") owner.boot = value;
    if (name == "pid_space") owner.pid_space = value;
    if (name == "pid") number(value, owner.pid);
    if (name == "started") number(value, owner.started);
  }
  return {};
}

bool gone_from_here(const Owner& owner, const Owner& me) {
  return owner.pid > 0 && owner.boot == me.boot && owner.pid_space == me.pid_space && !owner.pid_space.empty() &&
         process_start(owner.pid) != owner.started;
}

std::map<std::string, std::string> parse_states(std::string_view text) {
  std::map<std::string, std::string> out;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const size_t bar = line.find('|');
    if (bar == std::string_view::npos) continue;
    std::string_view state = line.substr(bar + 1);
    while (!state.empty() && state.back() == ' ') state.remove_suffix(1);
    std::string_view job = line.substr(0, bar);
    while (!job.empty() && job.back() == ' ') job.remove_suffix(1);
    out[std::string(job)] = state;
  }
  return out;
}

}  // namespace sluice
