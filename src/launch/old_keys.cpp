// SPDX-License-Identifier: Apache-2.0
#include "launch/old_keys.h"

#include <sys/stat.h>

#include <algorithm>

#include "cluster/endpoint.h"

namespace sluice {
namespace {
constexpr double kKeptSeconds = 86400;  // a requeued job comes back to its key
constexpr double kClockSeconds = 600;   // by which the clocks of hosts may differ

double modified(const std::filesystem::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? static_cast<double>(info.st_mtime) : 0;
}

// By its record alone. A local run that has not said goodbye may go on where its process cannot be seen.
bool may_have_ended(const std::filesystem::path& home, const Endpoint& record, double now) {
  const std::filesystem::path key = key_path(home, record.id);
  if (record.key_file != key.string() || modified(key) == 0) return false;
  // Another run of the same name, on another host, has made its own key since.
  if (modified(key) > record.start_time + kClockSeconds) return false;
  if (record.state == EndpointState::kStopped) return now - modified(endpoint_path(home, record.id)) > kKeptSeconds;
  return !record.job_id.empty() && record.end_time > 0 && now - record.end_time > kKeptSeconds;
}
}  // namespace

std::vector<std::string> remove_old_keys(const std::filesystem::path& home, const CommandRunner& run,
                                         const LocalFacts& local) {
  std::vector<Endpoint> old = list_endpoints(home);
  std::erase_if(old, [&](const Endpoint& record) { return !may_have_ended(home, record, local.now); });
  std::optional<std::vector<QueueRow>> queue;
  if (std::ranges::any_of(old, [](const Endpoint& record) { return !record.job_id.empty(); })) queue = read_queue(run);
  std::vector<std::string> removed;
  for (const Endpoint& record : old) {
    const auto same = [&](const QueueRow& row) { return row.id == record.job_id; };
    if (!record.job_id.empty() && (!queue || std::ranges::any_of(*queue, same))) continue;
    std::error_code error;
    if (std::filesystem::remove(key_path(home, record.id), error)) removed.push_back(record.id);
  }
  return removed;
}

}  // namespace sluice
