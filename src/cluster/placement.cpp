// SPDX-License-Identifier: Apache-2.0
#include "cluster/placement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "base/error.h"

namespace sluice {
namespace {

// Ranks of each host in rank order; hosts ordered by their lowest rank.
std::vector<std::vector<int>> group_by_host(std::span<const RankPlace> places) {
  std::vector<const RankPlace*> order;
  for (const RankPlace& place : places) order.push_back(&place);
  std::sort(order.begin(), order.end(), [](const RankPlace* a, const RankPlace* b) { return a->rank < b->rank; });
  std::vector<std::vector<int>> hosts;
  std::map<std::pair<std::string, std::string>, size_t> index;
  for (const RankPlace* place : order) {
    const auto [found, fresh] = index.try_emplace({place->host, place->boot_id}, hosts.size());
    if (fresh) hosts.emplace_back();
    hosts[found->second].push_back(place->rank);
  }
  return hosts;
}

std::string ranks(int world) { return fmt::format("{} rank{}", world, world == 1 ? "" : "s"); }

bool fits(int value, int limit) { return limit == 0 || value <= limit; }

// Every tp x pp = world that the model allows and that keeps tp inside hosts (or not), for messages.
std::string layouts_that_work(int world, int divides, const ModelLimits& limits) {
  std::vector<std::string> found;
  for (int tp = 1; tp <= world; ++tp) {
    if (world % tp == 0 && divides % tp == 0 && fits(tp, limits.max_tp) && fits(world / tp, limits.max_pp)) {
      found.push_back(fmt::format("--tp {} --pp {}", tp, world / tp));
    }
  }
  return found.empty() ? "nothing" : fmt::format("{}", fmt::join(found, ", "));
}

}  // namespace

std::vector<int> ranks_per_host(std::span<const RankPlace> places) {
  std::vector<int> counts;
  for (const auto& host : group_by_host(places)) counts.push_back(static_cast<int>(host.size()));
  return counts;
}

Layout choose_layout(std::span<const int> ranks_per_host, std::optional<int> tp, std::optional<int> pp,
                     const ModelLimits& limits, bool tp_across_hosts) {
  const int world = std::accumulate(ranks_per_host.begin(), ranks_per_host.end(), 0);
  check(world > 0, "a layout needs ranks");
  int divides = world;  // tp must divide it
  if (!tp_across_hosts)
    divides =
        std::accumulate(ranks_per_host.begin(), ranks_per_host.end(), 0, [](int a, int b) { return std::gcd(a, b); });
  const std::string works = layouts_that_work(world, divides, limits);

  for (const auto& [name, value] : {std::pair{"--tp", tp}, std::pair{"--pp", pp}}) {
    if (value && *value < 1) throw Error(fmt::format("{} {}: expected 1 or more", name, *value));
  }
  if (tp && pp && static_cast<int64_t>(*tp) * *pp != world) {
    throw Error(fmt::format("--tp {} times --pp {} is {} but {} started: with {} {} would work, or start --ntasks={}",
                            *tp, *pp, static_cast<int64_t>(*tp) * *pp, ranks(world) + (world == 1 ? " was" : " were"),
                            ranks(world), works, static_cast<int64_t>(*tp) * *pp));
  }
  if ((tp && world % *tp != 0) || (pp && world % *pp != 0)) {
    const int given = tp && world % *tp != 0 ? *tp : *pp;
    const std::string fewer = world > given ? fmt::format("--ntasks={} or ", world / given * given) : "";
    throw Error(fmt::format("{} {} does not divide the {} started: with {} {} would work, or start {}--ntasks={}",
                            tp && world % *tp != 0 ? "--tp" : "--pp", given, ranks(world), ranks(world), works, fewer,
                            (world / given + 1) * given));
  }
  Layout layout;
  if (tp) {
    layout = {.tp = *tp, .pp = world / *tp};
  } else if (pp) {
    layout = {.tp = world / *pp, .pp = *pp};
  } else {
    layout = {.tp = 0, .pp = 0};
    for (int candidate = divides; candidate >= 1 && layout.tp == 0; --candidate) {
      if (divides % candidate == 0 && fits(candidate, limits.max_tp) && fits(world / candidate, limits.max_pp))
        layout = {.tp = candidate, .pp = world / candidate};
    }
    if (layout.tp == 0) {
      throw Error(
          fmt::format("{} ranks are too many for this model ({} attention heads, {} layers){}; start fewer tasks",
                      world, limits.max_tp, limits.max_pp,
                      tp_across_hosts ? "" : " with tensor parallelism inside hosts (--tp-across-hosts lifts that)"));
    }
  }
  if (!fits(layout.tp, limits.max_tp)) {
    throw Error(fmt::format("--tp {} is more than the model's {} attention heads: with {} ranks {} would work",
                            layout.tp, limits.max_tp, world, works));
  }
  if (!fits(layout.pp, limits.max_pp)) {
    throw Error(fmt::format("--pp {} is more than the model's {} layers: with {} ranks {} would work", layout.pp,
                            limits.max_pp, world, works));
  }
  return layout;
}

std::vector<RankGroups> plan_groups(int tp, int pp, std::span<const RankPlace> places, bool tp_across_hosts) {
  const int world = static_cast<int>(places.size());
  check(tp >= 1 && pp >= 1 && tp * pp == world, "groups need tp * pp ranks");
  const std::vector<std::vector<int>> hosts = group_by_host(places);
  std::vector<int> order;  // ranks host by host: chunks of tp are the groups, in stage order
  int common = 0;
  for (const auto& host : hosts) {
    order.insert(order.end(), host.begin(), host.end());
    common = std::gcd(common, static_cast<int>(host.size()));
  }
  std::vector<char> seen(places.size(), 0);
  for (const int rank : order)
    check(rank >= 0 && rank < world && !seen[static_cast<size_t>(rank)]++, "ranks must be 0 .. world-1, each once");

  if (!tp_across_hosts && common % tp != 0) {
    std::vector<std::string> counts;
    for (const auto& host : hosts)
      counts.push_back(
          fmt::format("{} on {}", host.size(), std::find_if(places.begin(), places.end(), [&](const RankPlace& p) {
                                                 return p.rank == host.front();
                                               })->host));
    throw Error(
        fmt::format("--tp {} would span hosts (ranks: {}): with this placement {} would work; place {} tasks on each "
                    "host, or pass --tp-across-hosts "
                    "if the network between them is fast",
                    tp, fmt::join(counts, ", "), layouts_that_work(world, common, {}), tp));
  }
  std::vector<RankGroups> groups(places.size());
  for (int at = 0; at < world; ++at) {
    RankGroups& own = groups[static_cast<size_t>(order[static_cast<size_t>(at)])];
    own.tp_index = at % tp;
    own.pp_stage = at / tp;
    for (int i = 0; i < tp; ++i) own.tp_ranks.push_back(order[static_cast<size_t>(own.pp_stage * tp + i)]);
    for (int stage = 0; stage < pp; ++stage)
      own.pp_ranks.push_back(order[static_cast<size_t>(stage * tp + own.tp_index)]);
  }
  return groups;
}

std::vector<std::string> parse_visible_devices(std::string_view value) {
  std::vector<std::string> tokens;
  size_t at = 0;
  while (at < value.size()) {
    const size_t stop = std::min(value.find(',', at), value.size());
    std::string_view token = value.substr(at, stop - at);
    while (!token.empty() && (token.front() == ' ' || token.front() == '\t')) token.remove_prefix(1);
    while (!token.empty() && (token.back() == ' ' || token.back() == '\t')) token.remove_suffix(1);
    if (token == "NoDevFiles" || token == "-1")
      break;  // Slurm's and CUDA's word for none: what follows is not seen either
    if (!token.empty()) tokens.emplace_back(token);
    at = stop + 1;
  }
  return tokens;
}

DeviceChoice choose_device(int visible, int local_rank, int local_size) {
  check(local_rank >= 0 && local_rank < local_size, "the local rank must be below the count of ranks on the host");
  if (visible == 0) {
    throw Error(fmt::format(
        "no GPU is visible to this rank; add --gpus-per-node={} to sbatch or srun, or choose the CPU with --device cpu",
        local_size));
  }
  DeviceChoice choice;
  if (visible >= local_size) {
    choice.index = local_rank;
    if (visible > local_size) {
      choice.warnings.push_back(
          fmt::format("{} of {} GPUs on this host stay idle: {} ranks run here; start one task per GPU",
                      visible - local_size, visible, local_size));
    }
    return choice;
  }
  if (visible == 1) return choice;  // per-task hiding or one GPU for all: check_devices() tells them apart by UUID
  throw Error(
      fmt::format("{} ranks on this host share {} visible GPUs, expected one GPU per rank; ask for --gpus-per-node={} "
                  "or start {} tasks per node",
                  local_size, visible, local_size, visible));
}

std::vector<std::string> check_devices(std::span<const RankPlace> places, int tp) {
  std::vector<std::string> warnings;
  std::map<std::pair<std::string, std::string>, std::vector<const RankPlace*>> hosts;
  std::map<std::string, const RankPlace*> holder;  // device UUIDs are unique in the world
  for (const RankPlace& place : places) {
    if (place.device_uuid.empty()) continue;
    const auto [first, fresh] = holder.try_emplace(place.device_uuid, &place);
    if (!fresh) {
      throw Error(
          fmt::format("ranks {} and {} are both on GPU {} of host {}, expected one GPU per rank; ask for one GPU per "
                      "task (--gpus-per-node equal to the "
                      "tasks per node) and remove CUDA_VISIBLE_DEVICES from your scripts",
                      first->second->rank, place.rank, place.device_uuid, place.host));
    }
    if (tp > 1 && place.device_uuid.starts_with("MIG-")) {
      throw Error(
          fmt::format("--tp {} over MIG instances (rank {} on {} has {}): instances cannot reach each other's memory; "
                      "use --tp 1, a larger instance or whole GPUs",
                      tp, place.rank, place.host, place.device_uuid));
    }
    hosts[{place.host, place.boot_id}].push_back(&place);
  }
  for (const auto& [host, ranks] : hosts) {
    const bool hidden = ranks.size() > 1 && std::all_of(ranks.begin(), ranks.end(),
                                                        [](const RankPlace* p) { return p->visible_devices == 1; });
    const bool mig = ranks.front()->device_uuid.starts_with("MIG-");
    if (hidden && !mig) {
      warnings.push_back(fmt::format(
          "each rank on {} sees only its own GPU, so direct copies between GPUs are off; add --gpu-bind=none (or "
          "--gres-flags=allow-task-sharing) to srun",
          host.first));
    }
  }
  return warnings;
}

}  // namespace sluice
