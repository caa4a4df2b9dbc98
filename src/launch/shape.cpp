// SPDX-License-Identifier: Apache-2.0
#include "launch/shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "base/error.h"
#include "cluster/walltime.h"
#include "launch/split.h"

namespace sluice {
namespace {
constexpr double kMb = 1024.0 * 1024;
constexpr double kSinfoSeconds = 15;

std::optional<int64_t> number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || value < 0 || value > 100'000'000)
    return std::nullopt;
  return value;
}
}  // namespace

JobShape gpu_shape(const PlanRequest& request, const Fit& fit) {
  JobShape out;
  out.nodes = fit.nodes(request.gpus_per_node);
  out.ranks_per_node = (fit.ranks() + out.nodes - 1) / out.nodes;
  out.gpus_per_node = out.ranks_per_node;
  out.gres = fit.gpu.gres;
  out.cpus = 6;
  out.memory_mb = 1024 * (16 + 4 * int64_t{out.ranks_per_node});  // loading is a bounded ring
  out.tp = fit.tp, out.pp = fit.pp, out.context = request.context;
  return out;
}

JobShape cpu_shape(const PlanRequest& request, int nodes, int ranks) {
  if (ranks % nodes != 0)
    throw Error(fmt::format("{} ranks do not divide over {} nodes; expected a multiple of {}", ranks, nodes, nodes));
  JobShape out;
  out.nodes = nodes, out.ranks_per_node = ranks / nodes;
  out.cpus = 8;
  const double weights = static_cast<double>(request.model.parameters) * request.bytes_per_weight;
  const double cache = 2.0 *
                       static_cast<double>(request.model.n_layers * request.model.n_kv_heads * request.model.head_dim) *
                       request.bytes_per_cache * static_cast<double>(request.context * request.sequences);
  // Staging while loading, code and scratch of a rank; weights twice where a page cache counts with the job.
  const double each = 512 * kMb, share = (2 * weights + cache) / nodes;
  out.memory_mb = static_cast<int64_t>(std::ceil((share + each * out.ranks_per_node) / kMb));
  return out;
}

std::string format_memory(int64_t megabytes) {
  return megabytes % 1024 == 0 ? fmt::format("{}G", megabytes / 1024) : fmt::format("{}M", megabytes);
}

std::vector<std::string> shape_options(const JobShape& shape) {
  std::vector<std::string> out;
  if (shape.nodes > 1) out.push_back(fmt::format("--nodes={}", shape.nodes));
  out.push_back(fmt::format("--ntasks-per-node={}", shape.ranks_per_node));
  if (shape.gpus_per_node > 0)
    out.push_back(
        fmt::format("--gpus-per-node={}{}{}", shape.gres, shape.gres.empty() ? "" : ":", shape.gpus_per_node));
  if (shape.cpus > 0) out.push_back(fmt::format("--cpus-per-task={}", shape.cpus));
  if (shape.memory_mb > 0) out.push_back("--mem=" + format_memory(shape.memory_mb));
  return out;
}

std::vector<GpuOffer> parse_gpu_offers(std::string_view text) {
  std::map<std::pair<std::string, std::string>, int> most;
  for (const std::string_view line : split(text, '\n')) {
    const size_t bar = line.find('|');
    if (bar == line.npos) continue;
    for (std::string_view item : split(line.substr(bar + 1), ',')) {
      item = item.substr(0, item.find('('));  // the sockets it is near to
      if (!item.starts_with("gpu:")) continue;
      item.remove_prefix(4);
      const size_t colon = item.rfind(':');
      const auto count = number(colon == item.npos ? item : item.substr(colon + 1));
      if (!count || *count == 0) continue;
      int& here =
          most[{std::string(line.substr(0, bar)), std::string(colon == item.npos ? "" : item.substr(0, colon))}];
      here = std::max(here, static_cast<int>(*count));
    }
  }
  std::vector<GpuOffer> out;
  for (const auto& [key, count] : most) out.push_back({key.first, key.second, count});
  return out;
}

std::optional<std::vector<GpuOffer>> read_gpu_offers(const CommandRunner& run, const std::string& partition) {
  std::vector<std::string> command = {"sinfo", "-h", "-o", "%R|%G"};
  if (!partition.empty()) command.push_back("--partition=" + partition);
  const auto said = run(command, kSinfoSeconds);
  if (!said || said->exit_code != 0) return std::nullopt;
  return parse_gpu_offers(said->output);
}

JobShape best_offer(const PlanRequest& wanted, const std::vector<GpuOffer>& offers, int tp, int pp) {
  std::map<std::string, int> kinds;
  for (const GpuOffer& offer : offers) kinds[offer.type] = std::max(kinds[offer.type], offer.per_node);
  std::optional<Fit> best;
  PlanRequest best_request;
  std::string why;
  const auto no = [&](const std::string& type, const std::string& reason) {
    why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", type.empty() ? "GPUs without a type" : type, reason);
  };
  for (const auto& [type, per_node] : kinds) {
    if (type.empty()) {
      no(type, "Slurm does not say what they are");
      continue;
    }
    try {
      PlanRequest request = wanted;
      request.gpus_per_node = per_node;
      GpuType gpu = find_gpu(type);
      gpu.gres = type;
      if (!gpu.supported) {
        no(type, "too old, compute capability 8.0 is needed");
        continue;
      }
      std::optional<Fit> fit = tp > 0 ? std::optional(layout_fit(request, gpu, tp, pp)) : smallest_fit(request, gpu);
      if (!fit || fit->room_gib < 0) {
        no(type, fit ? fmt::format("does not fit with tp {} pp {}", tp, pp) : "does not fit");
        continue;
      }
      const bool better = !best || fit->ranks() < best->ranks() ||
                          (fit->ranks() == best->ranks() && fit->gpu.memory_gib < best->gpu.memory_gib);
      if (better) best = fit, best_request = request;
    } catch (const Error& error) {
      no(type, error.what());
    }
  }
  if (!best) {
    throw Error(fmt::format(
        "no GPU of this cluster can be chosen ({}); name its kind with --gpu (a100:80, NAME:GIB), quantise, shorten "
        "--max-total-tokens, or take --cpu",
        why.empty() ? "sinfo lists none" : why));
  }
  return gpu_shape(best_request, *best);
}

std::optional<int64_t> parse_time_limit(std::string_view text) {
  const size_t dash = text.find('-');
  if (dash == text.npos) {
    if (text.find(':') != text.npos) return parse_time_left(text);
    const auto minutes = number(text);
    return minutes ? std::optional(*minutes * 60) : std::nullopt;
  }
  const auto days = number(text.substr(0, dash));
  if (!days) return std::nullopt;
  int64_t seconds = *days * 86400, unit = 3600;
  for (const std::string_view field : split(text.substr(dash + 1), ':')) {
    const auto value = number(field);
    if (!value || unit == 0) return std::nullopt;
    seconds += *value * unit;
    unit /= 60;
  }
  return seconds;
}

}  // namespace sluice
