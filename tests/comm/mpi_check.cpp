// SPDX-License-Identifier: Apache-2.0
// Every collective over MPI on every group, run by mpirun or srun: mpi_check TP PP [--bench]. Exit code 0 when each
// rank found what it expected. SLUICE_MPI_CHECK_DIR names a folder that all ranks see.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/launch.h"
#include "comm/collective_checks.h"
#include "comm/mpi.h"

using namespace sluice;

namespace {

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void pause_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

// A long message arrives although its sender makes no further MPI call: the sender waits for a file that the receiver
// makes on arrival.
std::string check_background_send(Communicator& comm, const std::filesystem::path& folder) {
  const auto arrived = folder / fmt::format("arrived-{}", std::getenv("SLUICE_MPI_CHECK_RUN"));
  std::vector<float> data(4 << 20, 1.5f);
  const Tensor view(data.data(), DType::kF32, {static_cast<int64_t>(data.size())});
  std::string wrong;
  if (comm.rank() == 0) {
    pause_seconds(0.2);  // the receiver is waiting already
    comm.send(view, 1);
    const double deadline = monotonic_seconds() + 60;
    while (!std::filesystem::exists(arrived) && monotonic_seconds() < deadline) pause_seconds(0.005);
    if (!std::filesystem::exists(arrived)) wrong = "a long message does not arrive while its sender is elsewhere";
    std::filesystem::remove(arrived);
  } else if (comm.rank() == 1) {
    std::vector<float> got(data.size());
    comm.recv(Tensor(got.data(), DType::kF32, {static_cast<int64_t>(got.size())}), 0);
    if (got != data) wrong = "a long message arrived changed";
    std::ofstream(arrived) << "arrived";
  }
  return wrong;
}

// Waiting for a late rank takes little CPU.
std::string check_idle_wait(Communicator& comm) {
  float one = 1;
  const Tensor view(&one, DType::kF32, {1});
  comm.all_reduce(view);
  if (comm.rank() == 0) pause_seconds(2);
  const double before = cpu_seconds();
  comm.all_reduce(view);
  const double spent = cpu_seconds() - before;
  if (comm.rank() != 0 && spent > 0.4) return fmt::format("{:.2f} s of CPU spent on waiting 2 s", spent);
  return {};
}

void bench(Communicator& comm) {
  for (const int64_t n : {16, 2048, 8192, 65536, 1048576}) {
    std::vector<float> data(static_cast<size_t>(n), 1e-3f);
    const Tensor view(data.data(), DType::kF32, {n});
    const int rounds = n > 100000 ? 50 : 2000;
    comm.all_reduce(view);
    const double start = monotonic_seconds();
    for (int i = 0; i < rounds; ++i) comm.all_reduce(view);
    const double each = (monotonic_seconds() - start) / rounds;
    if (comm.rank() == 0)
      fmt::print("all_reduce {} floats over {} ranks: {:.1f} us, {:.2f} GB/s\n", n, comm.size(), each * 1e6,
                 static_cast<double>(n) * 4 / each * 1e-9);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const Launch launch = read_launch(process_environment());
  const int tp = argc > 1 ? std::atoi(argv[1]) : launch.world, pp = argc > 2 ? std::atoi(argv[2]) : 1;
  if (launch.world != tp * pp) {
    fmt::print(stderr, "expected {} ranks, found {}\n", tp * pp, launch.world);
    return 2;
  }
  std::vector<int> tp_ranks, pp_ranks;
  for (int i = 0; i < tp; ++i) tp_ranks.push_back(launch.rank / tp * tp + i);
  for (int i = 0; i < pp; ++i) pp_ranks.push_back(launch.rank % tp + i * tp);
  Groups groups = mpi_groups(launch.rank, launch.world, tp_ranks, pp_ranks);
  if (argc > 3 && std::strcmp(argv[3], "--bench") == 0) {
    bench(*groups.world);
    finish_mpi();
    return 0;
  }
  std::string wrong;
  if (groups.tp_rank() != launch.rank % tp || groups.stage() != launch.rank / tp) wrong = "wrong place in the groups";
  for (Communicator* comm : {groups.world.get(), groups.tp.get(), groups.pp.get()})
    if (wrong.empty()) wrong = check_everything(*comm);
  if (wrong.empty() && launch.world > 1) wrong = check_idle_wait(*groups.world);
  if (const char* folder = std::getenv("SLUICE_MPI_CHECK_DIR"); wrong.empty() && folder != nullptr && launch.world > 1)
    wrong = check_background_send(*groups.world, folder);
  if (!wrong.empty()) {
    fmt::print(stderr, "rank {}: {}\n", launch.rank, wrong);
    std::fflush(stderr);
    ::_exit(1);  // the others would wait in MPI_Finalize
  }
  if (launch.rank == 0) fmt::print("mpi_check: {} ranks, tp {}, pp {}: all collectives right\n", launch.world, tp, pp);
  finish_mpi();
  return 0;
} catch (const Error& error) {
  fmt::print(stderr, "mpi_check: {}\n", error.what());
  return 2;
}
