// SPDX-License-Identifier: Apache-2.0
#include "app/device.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/log.h"
#include "cluster/devices.h"

namespace sluice {
namespace {

// The driver's library: without it, opening the module (and cuBLASLt, half a gigabyte) is of no use.
bool has_driver() {
  if (std::getenv("SLUICE_CUDA_MODULE") != nullptr) return true;
  void* driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver != nullptr) ::dlclose(driver);
  return driver != nullptr;
}

// A MIG instance is known by the name that the job was given: the runtime reports the whole GPU's.
std::string uuid_of(const CudaDevice& device, int index) {
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES"); visible != nullptr) {
    const std::vector<std::string> tokens = parse_visible_devices(visible);
    if (static_cast<size_t>(index) < tokens.size() && tokens[static_cast<size_t>(index)].starts_with("MIG-"))
      return tokens[static_cast<size_t>(index)];
  }
  return device.uuid;
}

RankDevice choose_gpu(const Launch& launch) {
  const std::vector<CudaDevice> devices = cuda_module().devices();
  RankDevice out;
  out.cuda = true;
  out.visible = static_cast<int>(devices.size());
  const DeviceChoice choice =
      choose_device(out.visible, launch.local_rank, launch.local_size.value_or(launch.local_rank + 1));
  out.index = choice.index;
  if (launch.local_size) out.warnings = choice.warnings;
  out.device = devices[static_cast<size_t>(choice.index)];
  out.device.uuid = uuid_of(out.device, choice.index);
  return out;
}

double gb(size_t bytes) { return 1e-9 * static_cast<double>(bytes); }

}  // namespace

RankDevice choose_rank_device(const Settings& settings, const Launch& launch) {
  const std::string& wanted = settings.word("device");
  RankDevice cpu;
  if (wanted == "cpu") return cpu;
  ::setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0);  // as nvidia-smi and Slurm number them; read when CUDA starts
  if (wanted == "cuda") {
    try {
      return choose_gpu(launch);
    } catch (const Error& error) {
      throw Error(fmt::format("device (from {}): cuda was asked for. {}", settings.origin("device"), error.what()));
    }
  }
  if (!has_driver()) return cpu;
  try {
    if (cuda_module().devices().empty()) {
      cpu.why_not = "no GPU is visible";
      return cpu;
    }
  } catch (const Error& error) {
    cpu.why_not = error.what();
    return cpu;
  }
  return choose_gpu(launch);
}

std::vector<std::string> check_rank_devices(const std::vector<RankPlace>& places, int tp) {
  const auto without = std::ranges::find_if(places, [](const RankPlace& p) { return p.device_uuid.empty(); });
  const auto with = std::ranges::find_if(places, [](const RankPlace& p) { return !p.device_uuid.empty(); });
  if (without != places.end() && with != places.end())
    throw Error(
        fmt::format("rank {} on {} has a GPU and rank {} on {} has none; give every task one, or choose --device "
                    "cpu for all",
                    with->rank, with->host, without->rank, without->host));
  return check_devices(places, tp);
}

std::unique_ptr<Backend> make_rank_backend(const Settings& settings, const RankDevice& device, int local_ranks) {
  if (device.cuda) {
    CudaOptions options;
    options.device = device.index;
    options.utilization = settings.number("gpu-memory-utilization");
    options.deterministic = settings.flag("deterministic");
    return cuda_module().make(options);
  }
  CpuOptions cpu;
  cpu.threads = static_cast<int>(settings.integer("threads"));
  cpu.isa = settings.text("cpu-isa");
  cpu.local_ranks = local_ranks;
  return make_cpu_backend(cpu);
}

int64_t load_threads(const Settings& settings, int local_ranks) {
  const int64_t asked = settings.integer("load-threads");
  return asked > 0 ? asked : std::clamp<int64_t>(read_host_facts().cpus / std::max(local_ranks, 1), 4, 16);
}

void require_gpu_memory(const Settings& settings, const ModelSource& source, const ModelInfo& info,
                        const Layout& layout, const Backend& backend) {
  const size_t element =
      source.dtype == "auto" ? (info.dtype == "float32" ? 4u : 2u) : dtype_bytes(parse_dtype(source.dtype));
  const auto ranks = static_cast<size_t>(layout.tp) * static_cast<size_t>(layout.pp);
  // Of quantised products, beside an embedding that is none.
  const auto table = static_cast<double>(info.vocab * info.d_model), wide = static_cast<double>(element);
  const double each = info.quantised.starts_with("int4")    ? 0.57
                      : info.quantised.ends_with("(mxfp4)") ? 1.13
                      : info.quantised.empty()              ? wide
                                                            : 1.03;
  const auto all = static_cast<size_t>((static_cast<double>(info.parameters) - table) * each + table * wide);
  const size_t weights = all / ranks, room = backend.free_bytes();
  if (weights <= room) return;
  const size_t needed = (all + room - 1) / std::max<size_t>(room, 1);
  throw Error(
      fmt::format("{} does not fit: its weights are {:.1f} GB{}, {:.1f} GB on each of {} GPU{}, and {:.1f} GB are "
                  "free under --gpu-memory-utilization {}; {} GPUs like this one would hold the weights{}",
                  info.name, gb(weights * ranks),
                  info.quantised.empty() ? fmt::format(" in {}-bit numbers", 8 * element) : " as " + info.quantised,
                  gb(weights), ranks, ranks == 1 ? "" : "s", gb(room), settings.text("gpu-memory-utilization"),
                  needed + needed / 8 + 1, element == 4 ? ", or half as many with --dtype bfloat16" : ""));
}

size_t gpu_spare_bytes(const ModelInfo& info) {
  // Recorded steps, attention's working memory, connections of NCCL, and what allocations are rounded up by.
  constexpr size_t kRest = size_t{512} << 20;
  constexpr size_t kWidened = size_t{256} << 20;  // of products with weights of few bits
  return kRest + (info.quantised.empty() ? 0 : kWidened);
}

}  // namespace sluice
