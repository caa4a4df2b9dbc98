// SPDX-License-Identifier: Apache-2.0
// What a serving job asks Slurm for, and what the cluster offers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/command.h"
#include "launch/plan.h"

namespace sluice {

struct JobShape {
  int nodes = 1, ranks_per_node = 1;
  int gpus_per_node = 0;  // 0: a job on CPUs
  std::string gres;       // type in --gpus-per-node=TYPE:N; empty: untyped
  int cpus = 0;           // per rank
  int64_t memory_mb = 0;  // per node
  int tp = 0, pp = 0;     // 0: by the ranks
  int64_t context = 0;    // 0: the model's
  int ranks() const { return nodes * ranks_per_node; }
};

// One rank per GPU of a fit; host memory for loading alone, as weights go to the device.
JobShape gpu_shape(const PlanRequest& request, const Fit& fit);
// Ranks on CPUs: weights and the cache of `request.sequences` contexts live in the node's memory.
JobShape cpu_shape(const PlanRequest& request, int nodes, int ranks);
// Options of sbatch for it, in a fixed order.
std::vector<std::string> shape_options(const JobShape& shape);
std::string format_memory(int64_t megabytes);  // "24G", "640M"

// A kind of GPU that the cluster has, as sinfo lists it.
struct GpuOffer {
  std::string partition, type;  // type as Slurm names it; empty: untyped
  int per_node = 0;
};
// Lines of sinfo -o '%R|%G'.
std::vector<GpuOffer> parse_gpu_offers(std::string_view text);
// nullopt where there is no sinfo, or it does not answer.
std::optional<std::vector<GpuOffer>> read_gpu_offers(const CommandRunner& run, const std::string& partition);

// Of the offers' kinds that are known, the one on which it takes the fewest GPUs, of equals the smallest memory.
// `tp`, `pp` above 0 fix the layout. Throws Error that says why each does not do.
JobShape best_offer(const PlanRequest& request, const std::vector<GpuOffer>& offers, int tp, int pp);

// Slurm's times: "30" (minutes), "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM", "D-HH:MM:SS". Seconds; nullopt for others.
std::optional<int64_t> parse_time_limit(std::string_view text);

}  // namespace sluice
