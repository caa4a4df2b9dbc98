// SPDX-License-Identifier: Apache-2.0
#include "app/follow_job.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>

#include "app/progress.h"
#include "app/serve_report.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "cluster/devices.h"
#include "cluster/endpoint.h"
#include "cluster/signals.h"
#include "launch/jobs.h"
#include "launch/submit.h"
#include "launch/wait.h"

namespace sluice {
namespace {
constexpr double kLookSeconds = 0.5, kSoonSeconds = 2, kQueueSeconds = 10;
constexpr int kTail = 25, kExitInterrupted = 130;
constexpr size_t kTailBytes = 64 << 10;

void print_json(const FollowOptions& options, const LaunchStand& stand, const std::optional<Endpoint>& record,
                const std::string& ending, double seconds) {
  nlohmann::json out = {{"job", options.job},
                        {"state", launch_phase_name(stand.phase)},
                        {"detail", stand.detail},
                        {"log", options.log},
                        {"seconds", seconds}};
  if (!ending.empty()) out["ending"] = ending;
  if (record) {
    out["url"] = record->url, out["host"] = record->host, out["port"] = record->port;
    out["key_file"] = record->key_file, out["model"] = record->model;
  }
  fmt::print("{}\n", out.dump(1));
}
}  // namespace

std::string file_tail(const std::string& path, int lines) {
  std::string text;
  try {
    const File file = File::open_read(path);
    const uint64_t size = file.size(), bytes = std::min<uint64_t>(size, kTailBytes);
    text.resize(bytes);
    file.read_at(size - bytes, text.data(), bytes);
  } catch (const Error&) {
    return {};
  }
  size_t begin = text.size();
  for (int line = 0; begin > 0 && line <= lines; --begin) line += text[begin - 1] == '\n';
  return text.substr(begin > 0 ? begin + 1 : 0);
}

int follow_job(const FollowOptions& options) {
  const std::filesystem::path home = sluice_home(process_environment());
  const double started = monotonic_seconds();
  std::mutex mutex;
  std::condition_variable changed;
  bool leave = false;
  const SignalWatch watch([&](int, int count) {
    if (count > 1) ::_exit(kExitInterrupted);  // squeue may take its time
    const std::lock_guard lock(mutex);
    leave = true;
    changed.notify_all();
  });
  std::optional<std::vector<QueueRow>> queue;
  double next_queue = started;
  LaunchStand stand;
  StandLine line;
  while (true) {
    const double now = monotonic_seconds();
    if (now >= next_queue) {
      queue = read_queue(run_command);
      // Soon again at the beginning, when most happens; then as rarely as sites ask for.
      next_queue = monotonic_seconds() + (now - started < 10 ? kSoonSeconds : kQueueSeconds);
    }
    stand = judge_launch(options.job, reconcile(list_endpoints(home), queue, local_facts()), queue.has_value(),
                         file_tail(options.log, kTail));
    if (stand.phase == LaunchPhase::kReady || stand.phase == LaunchPhase::kEnded) break;
    line.show(launch_phase_name(stand.phase), stand.detail, stand.share);
    std::unique_lock lock(mutex);
    if (changed.wait_for(lock, std::chrono::duration<double>(kLookSeconds), [&] { return leave; })) break;
  }
  line.end();
  const double seconds = monotonic_seconds() - started;
  const std::optional<Endpoint> record = read_endpoint(home, options.job);
  if (leave) {
    fmt::print(stderr,
               "\njob {0} goes on without you ({1}).\n  follow:  sluice status {0}    sluice logs -f {0}\n  cancel:  "
               "sluice stop {0}\n",
               options.job, launch_phase_name(stand.phase));
    if (options.json) print_json(options, stand, record, "", seconds);
    return kExitInterrupted;
  }
  if (stand.phase == LaunchPhase::kReady) {
    if (options.json) {
      print_json(options, stand, record, "", seconds);
    } else if (record) {
      std::optional<double> left;
      if (record->end_time > 0) left = record->end_time - wall_seconds();
      fmt::print("{}\n  Through a local address that adds the key:\n    sluice connect {}\n",
                 human_block(*record, left, read_host_facts().host), options.job);
    }
    return 0;
  }
  const std::string ending = job_ending(run_command, options.job);
  if (options.json) {
    print_json(options, stand, record, ending, seconds);
  } else {
    const std::string tail = file_tail(options.log, kTail);
    if (!tail.empty()) fmt::print(stderr, "--- the end of {}\n{}---\n", options.log, tail);
    fmt::print(stderr, "sluice: job {} ended before it was ready: {}{}\n", options.job, stand.detail,
               ending.empty() ? "" : " (Slurm says " + ending + ")");
  }
  return 1;
}

}  // namespace sluice
