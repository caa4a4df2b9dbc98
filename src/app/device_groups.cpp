// SPDX-License-Identifier: Apache-2.0
// NCCL groups: ids travel over the control plane from each group's first rank, then a message of 1 MiB proves them.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "app/device.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/signals.h"
#include "comm/nccl.h"

namespace sluice {
namespace {

constexpr double kIdSeconds = 120;  // opening NCCL the first time reads a library of hundreds of megabytes

// What ranks agree about before they run: host memory, seldom, over the control plane.
class ControlWorld final : public Communicator {
 public:
  explicit ControlWorld(ControlPlane& control) : control_(control) {}
  int rank() const override { return control_.rank(); }
  int size() const override { return control_.size(); }
  void all_gather(const Tensor& out, const Tensor& in) override {
    check(out.dtype == in.dtype && out.elements() == in.elements() * size() && out.contiguous() && in.contiguous(),
          "all_gather takes contiguous tensors of one dtype, the output `size` times as long as the input");
    const std::vector<std::string> all =
        control_.all_gather("sizing the cache", {static_cast<const char*>(in.data), in.bytes()}, kSeconds);
    for (size_t r = 0; r < all.size(); ++r) {
      if (all[r].size() != in.bytes()) throw Error(fmt::format("rank {} runs another model or build", r));
      std::memcpy(static_cast<char*>(out.data) + r * in.bytes(), all[r].data(), in.bytes());
    }
  }
  void all_reduce(const Tensor&) override { fatal("the world of GPU ranks only gathers"); }
  void broadcast(const Tensor&, int) override { fatal("the world of GPU ranks only gathers"); }
  void send(const Tensor&, int) override { fatal("the world of GPU ranks only gathers"); }
  void recv(const Tensor&, int) override { fatal("the world of GPU ranks only gathers"); }

 private:
  static constexpr double kSeconds = 24 * 3600;  // others may still load; a rank that dies is noticed by its heartbeat
  ControlPlane& control_;
};

PeerUse peer_use(const Settings& settings) {
  const std::string& wanted = settings.word("all-reduce");
  if (wanted == "auto") return PeerUse::kAuto;
  return wanted == "nccl" ? PeerUse::kNever : PeerUse::kRequire;
}

// tp, pp, and pp once more for the way back.
constexpr int kKinds = 3;

}  // namespace

Groups make_cuda_groups(const Settings& settings, const RankGroups& mine, ControlPlane& control,
                        const Backend& backend) {
  void* stream = cuda_module().stream(backend);
  const PeerUse peers = peer_use(settings);
  Groups groups;
  if (control.size() == 1) return solo_groups();
  set_start_stage("starting NCCL");
  const NcclModule& nccl = nccl_module();
  if (control.rank() == 0) log_info(nccl.library());
  groups.world = std::make_unique<ControlWorld>(control);

  std::string ids;
  const std::vector<int>* members[kKinds] = {&mine.tp_ranks, &mine.pp_ranks, &mine.pp_ranks};
  for (const std::vector<int>* ranks : members) {
    const bool root = ranks->size() > 1 && ranks->front() == control.rank();
    ids += root ? nccl.unique_id() : std::string(128, '\0');
  }
  const std::vector<std::string> all = control.all_gather("opening NCCL", ids, kIdSeconds);
  const size_t length = ids.size() / kKinds;
  const double patience = settings.number("formation-timeout");
  const auto member = [&](int kind, const char* name) {
    const std::vector<int>& ranks = *members[kind];
    const auto place = static_cast<int>(std::ranges::find(ranks, control.rank()) - ranks.begin());
    const std::string& of_root = all[static_cast<size_t>(ranks.front())];
    return NcclMember{of_root.substr(static_cast<size_t>(kind) * length, length), place, static_cast<int>(ranks.size()),
                      fmt::format("{} ranks {}", name, fmt::join(ranks, ", ")), 2 * patience};
  };
  NcclOptions options;
  options.fixed_order = settings.flag("deterministic");
  groups.pp = nccl.make(member(1, "pp"), stream, options);
  options.peers = peers;
  groups.tp = nccl.make(member(0, "tp"), stream, options);
  if (mine.pp_ranks.size() > 1) groups.back = nccl.make_return(member(2, "pp"), stream);

  std::string report;
  for (const auto& [name, group] : {std::pair{"tp", groups.tp.get()}, std::pair{"pp", groups.pp.get()}}) {
    if (group->size() == 1) continue;
    const NcclTest test = nccl.self_test(*group, patience);
    report += fmt::format("{}{} {:.1f} GB/s", report.empty() ? "" : ", ", name, test.gbps);
    if (test.peer_us > 0) report += fmt::format(", 8 KiB between peers in {:.0f} us", test.peer_us);
    if (!test.without_peers.empty()) report += fmt::format(", all by NCCL: {}", test.without_peers);
  }
  const std::vector<std::string> reports = control.all_gather("the self-test of NCCL", report, 6 * patience);
  if (control.rank() == 0)
    for (size_t r = 0; r < reports.size(); ++r)
      log_info(
          fmt::format("self-test, 1 MiB summed: rank {} on {}: {}", r, control.hellos()[r].place.host, reports[r]));
  return groups;
}

}  // namespace sluice
