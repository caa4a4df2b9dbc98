// SPDX-License-Identifier: Apache-2.0
#include "app/doctor_ranks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include "app/device.h"
#include "app/host_groups.h"
#include "app/options.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "cluster/endpoint.h"
#include "comm/mpi.h"
#include "comm/nccl.h"
#include "tensor/tensor.h"

namespace sluice {
namespace {
constexpr double kMeetSeconds = 60, kTestSeconds = 30;
constexpr int64_t kElements = 1 << 18;  // 1 MiB of f32
constexpr int kRounds = 20, kSmallRounds = 200;

double seconds_of(Communicator& group, int64_t elements, int rounds) {
  Buffer buffer = Buffer::host(static_cast<size_t>(elements) * sizeof(float));
  const Tensor tensor = buffer.view(DType::kF32, {elements});
  for (int i = 0; i < rounds / 10 + 1; ++i) group.all_reduce(tensor);
  const double started = monotonic_seconds();
  for (int i = 0; i < rounds; ++i) group.all_reduce(tensor);
  return (monotonic_seconds() - started) / rounds;
}

// Hosts on which the file that rank 0 has just made is not to be seen.
std::vector<std::string> blind_hosts(ControlPlane& control, const std::filesystem::path& home) {
  const std::filesystem::path file = home / fmt::format("doctor.{}", control.hellos()[0].pid);
  if (control.rank() == 0) replace_file(file, "here\n", 0600);
  control.barrier("looking at $SLUICE_HOME", kMeetSeconds);
  bool seen = false;
  std::error_code error;
  // A folder's content may be remembered from before: listing it anew asks the server.
  for (const double end = monotonic_seconds() + 3; !seen && monotonic_seconds() < end; ::usleep(100000)) {
    for (std::filesystem::directory_iterator it(home, error), last; !error && it != last; it.increment(error))
      seen = seen || it->path() == file;
  }
  const std::vector<std::string> all = control.all_gather("looking at $SLUICE_HOME", seen ? "1" : "0", kMeetSeconds);
  if (control.rank() == 0) std::filesystem::remove(file, error);
  std::set<std::string> out;
  for (size_t r = 0; r < all.size(); ++r)
    if (all[r] != "1") out.insert(control.hellos()[r].place.host);
  return {out.begin(), out.end()};
}

// Largest difference of the hosts' clocks, read just after a barrier.
double clock_skew(ControlPlane& control) {
  control.barrier("reading clocks", kMeetSeconds);
  const std::vector<std::string> all =
      control.all_gather("reading clocks", fmt::format("{:.6f}", wall_seconds()), kMeetSeconds);
  double low = 1e300, high = 0;
  for (const std::string& text : all) {
    const double at = std::strtod(text.c_str(), nullptr);
    low = std::min(low, at), high = std::max(high, at);
  }
  return high - low;
}
}  // namespace

Findings examine_ranks(const Launch& launch, bool gpu) {
  const std::filesystem::path home = sluice_home(process_environment());
  const Settings settings = make_settings({Topic::kModel, Topic::kRun});
  Hello mine = describe_process(launch);
  RankDevice device;
  if (gpu) {
    device = choose_rank_device(settings, launch);
    mine.place.device_uuid = device.device.uuid;
    mine.place.visible_devices = device.visible;
  }
  ControlOptions options;
  options.home = home;
  options.formation_seconds = kMeetSeconds;
  options.on_lost = [](const std::string& reason) {
    fmt::print(stderr, "sluice: {}\n", reason);
    ::_exit(ControlOptions::kExitLost);
  };
  const auto control = ControlPlane::form(options, launch, mine);
  const std::vector<RankPlace> places = sluice::places(control->hellos());
  Findings out;
  if (gpu)
    for (const std::string& warning : check_rank_devices(places, launch.world))
      out.push_back({"GPUs", Verdict::kWarn, warning, "see docs/slurm.md, GPUs in the job script"});
  RankFacts facts;
  facts.ranks = launch.world;
  facts.hosts = static_cast<int>(ranks_per_host(places).size());
  facts.blind = blind_hosts(*control, home);
  facts.skew = facts.hosts > 1 ? clock_skew(*control) : 0;
  std::vector<int> everyone(static_cast<size_t>(launch.world));
  std::iota(everyone.begin(), everyone.end(), 0);
  const std::vector<int> alone = {launch.rank};
  if (gpu && device.cuda) {
    const auto backend = make_rank_backend(settings, device, 1);
    RankGroups groups;
    groups.tp_ranks = everyone, groups.pp_ranks = alone;
    Groups made = make_cuda_groups(settings, groups, *control, *backend);
    facts.transport = nccl_module().library();
    facts.gbps = nccl_module().self_test(*made.tp, kTestSeconds).gbps;
  } else {
    {
      RankGroups groups;
      groups.tp_ranks = everyone, groups.pp_ranks = alone;
      const RankTransport made = make_host_groups(settings, launch, groups, *control, true);
      facts.transport = made.transport == "mpi" ? "MPI" : "TCP";
      facts.latency_us = 1e6 * seconds_of(*made.groups.tp, 1, kSmallRounds);
      facts.gbps = 1e-9 * static_cast<double>(kElements * 4) / seconds_of(*made.groups.tp, kElements, kRounds);
    }
    finish_mpi();
  }
  control->leave();
  if (launch.rank != 0) return {};
  for (Finding& finding : judge_ranks(facts)) out.push_back(std::move(finding));
  return out;
}

}  // namespace sluice
