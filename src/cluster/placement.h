// SPDX-License-Identifier: Apache-2.0
// Which rank belongs to which tensor-parallel group and pipeline stage, and which GPU it takes.
// Computed from what all ranks report about themselves, never from arithmetic on node lists. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// What one rank says of itself. Two ranks are on one host when host and boot_id are both equal.
struct RankPlace {
  int rank = 0;
  std::string host;
  std::string boot_id;
  int local_rank = 0;
  std::string device_uuid;  // empty for a CPU rank; "GPU-..." or "MIG-...", opaque
  int visible_devices = 0;  // GPUs this rank can see; 0 for a CPU rank
};

struct Layout {
  int tp = 1;
  int pp = 1;
};

// What the model allows. 0 means no limit known.
struct ModelLimits {
  int max_tp = 0;  // attention heads
  int max_pp = 0;  // layers
};

// Ranks per host, hosts ordered by their lowest rank.
std::vector<int> ranks_per_host(std::span<const RankPlace> places);

// world = sum(ranks_per_host) = tp * pp. Default: tp as large as fits evenly inside the hosts and the model, pp the
// rest (one rank per host: pp only; with tp_across_hosts: as much tp as the model allows). One given value fixes the
// other. Throws Error naming the task counts or the --tp and --pp that would work.
Layout choose_layout(std::span<const int> ranks_per_host, std::optional<int> tp, std::optional<int> pp,
                     const ModelLimits& limits, bool tp_across_hosts);

struct RankGroups {
  int tp_index = 0;           // 0 .. tp-1
  int pp_stage = 0;           // 0 .. pp-1
  std::vector<int> tp_ranks;  // world ranks of this rank's TP group, by tp_index
  std::vector<int> pp_ranks;  // world ranks of this rank's pipeline, by stage
};

// Groups of every rank, indexed by rank; rank 0 is always tp_index 0 of stage 0. TP groups are packed inside hosts; a
// TP group that would span hosts is refused with the numbers that work, unless tp_across_hosts. Throws Error.
std::vector<RankGroups> plan_groups(int tp, int pp, std::span<const RankPlace> places, bool tp_across_hosts);

// CUDA_VISIBLE_DEVICES as opaque tokens ("0", "GPU-...", "MIG-..."); blanks are trimmed, an empty value is no device.
std::vector<std::string> parse_visible_devices(std::string_view value);

struct DeviceChoice {
  int index = 0;                      // into the visible devices
  std::vector<std::string> warnings;  // idle devices, per-task hiding
};
// visible: devices this rank sees; local_size: ranks on its host. One rank per device. Throws Error with the sbatch
// line to add.
DeviceChoice choose_device(int visible, int local_rank, int local_size);

// Throws Error naming both ranks that hold one device, and where tp > 1 would span MIG instances. Returns warnings, one
// line each.
std::vector<std::string> check_devices(std::span<const RankPlace> places, int tp);

}  // namespace sluice
