// SPDX-License-Identifier: Apache-2.0
// Finds, loads and wraps the run-time module sluice_mpi.so.
#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "base/module.h"
#include "cluster/launch.h"
#include "comm/host_communicator.h"
#include "comm/mpi.h"
#include "comm/mpi/table.h"

namespace sluice {
namespace {

const SluiceMpiTable* table = nullptr;  // after a successful init

const SluiceMpiTable* load_module() {
  const auto paths = module_paths("sluice_mpi.so", "SLUICE_MPI_MODULE");
  std::filesystem::path path;
  void* module = nullptr;
  try {
    module = open_module(paths, true, path);  // global: MPI libraries load plug-ins that look for their symbols
  } catch (const Error& error) {
    throw Error(fmt::format(
        "cannot load the MPI module: {}; load the MPI that it was built with (module load ...), or build it again with "
        "the one that is there",
        error.what()));
  }
  if (module != nullptr) {
    const auto entry = reinterpret_cast<SluiceMpiEntry>(::dlsym(module, "sluice_mpi_table"));
    const SluiceMpiTable* found = entry == nullptr ? nullptr : entry();
    if (found == nullptr || found->abi != SLUICE_MPI_ABI) {
      throw Error(
          fmt::format("{} is not the MPI module of this build (expected interface {}, found {}); build both "
                      "together",
                      path.string(), SLUICE_MPI_ABI, found == nullptr ? "none" : std::to_string(found->abi)));
    }
    return found;
  }
  std::vector<std::string> looked;
  for (const auto& at : paths) looked.push_back(at.string());
  throw Error(
      fmt::format("several CPU ranks need the MPI module sluice_mpi.so, not found at {}; build Sluice where CMake "
                  "finds MPI, or set SLUICE_MPI_MODULE",
                  fmt::join(looked, ", ")));
}

void must(int rc) {
  if (rc != 0) fatal(fmt::format("MPI failed: {}", table->error()));
}

class MpiCommunicator final : public HostCommunicator {
 public:
  MpiCommunicator(void* group, int rank, int size) : HostCommunicator(rank, size), group_(group) {}

 private:
  void sum(float* data, size_t n) override { must(table->all_reduce(group_, data, n)); }
  void gather(void* out, const void* in, size_t bytes) override { must(table->all_gather(group_, out, in, bytes)); }
  void spread(void* data, size_t bytes, int root) override { must(table->broadcast(group_, data, bytes, root)); }
  void give(const void* data, size_t bytes, int to) override { must(table->send(group_, data, bytes, to)); }
  void take(void* data, size_t bytes, int from) override { must(table->recv(group_, data, bytes, from)); }

  void* group_;  // owned by the module until finish_mpi()
};

std::unique_ptr<Communicator> make_group(int world_rank, std::span<const int> ranks) {
  if (ranks.size() == 1) return make_solo_communicator();
  void* group = nullptr;
  must(table->group(ranks.data(), static_cast<int>(ranks.size()), &group));
  int rank = 0;
  while (ranks[static_cast<size_t>(rank)] != world_rank) ++rank;
  return std::make_unique<MpiCommunicator>(group, rank, static_cast<int>(ranks.size()));
}

bool contains(std::span<const int> ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

}  // namespace

std::string mpi_library() { return load_module()->library(); }

void start_mpi(int expected_rank, int expected_size) {
  check(table == nullptr, "MPI is initialised once");
  Launch launch = read_launch(process_environment());
  launch.rank = expected_rank;
  launch.world = expected_size;
  // Without a launcher that MPI knows, MPI_Init would abort or come up alone: say so while the words are ours.
  if (!launch.mpi_expected) check_mpi_agrees(launch, 0, 1);
  const SluiceMpiTable* module = load_module();
  int rank = 0, size = 0;
  if (module->init(&rank, &size) != 0) throw Error(fmt::format("MPI does not start: {}", module->error()));
  try {
    check_mpi_agrees(launch, rank, size);
  } catch (const Error&) {
    if (size == 1) module->finish();  // alone: nobody to wait for
    throw;
  }
  table = module;
  log_debug(fmt::format("MPI: {}", table->library()));
}

Groups mpi_groups(int expected_rank, int expected_size, std::span<const int> tp_ranks, std::span<const int> pp_ranks) {
  check(contains(tp_ranks, expected_rank) && contains(pp_ranks, expected_rank), "a rank is not in its own groups");
  if (expected_size == 1) return solo_groups();
  if (table == nullptr) start_mpi(expected_rank, expected_size);
  std::vector<int> world(static_cast<size_t>(expected_size));
  std::iota(world.begin(), world.end(), 0);
  Groups groups;
  groups.world = make_group(expected_rank, world);
  groups.tp = make_group(expected_rank, tp_ranks);
  groups.pp = make_group(expected_rank, pp_ranks);
  return groups;
}

void finish_mpi() {
  if (table == nullptr) return;
  must(table->finish());
  table = nullptr;
}

}  // namespace sluice
