// SPDX-License-Identifier: Apache-2.0
#include "app/host_groups.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "cluster/signals.h"
#include "comm/mpi.h"
#include "comm/tcp.h"

namespace sluice {
namespace {

constexpr double kStartSeconds = 120;  // of MPI, on a file system under load

// Starts MPI on every rank. Returns the first rank's reason why not, or nothing.
std::string try_mpi(const Launch& launch, ControlPlane& control, bool careful) {
  set_start_stage("starting MPI");
  std::string why;
  try {
    if (careful && launch.launcher == Launcher::kPmi && mpi_library().starts_with("Open MPI"))
      throw Error(
          "Open MPI ends the process at the older PMI unless it was built for that; start the ranks with srun "
          "--mpi=pmix, or insist with --comm mpi");
    if (careful && launch.launcher == Launcher::kPmix)
      if (const std::string words = pmix_disagreement(process_environment()); !words.empty()) throw Error(words);
    start_mpi(launch.rank, launch.world);
  } catch (const Error& error) {
    why = error.what();
  }
  for (const std::string& of_rank : control.all_gather("starting MPI", why, kStartSeconds))
    if (!of_rank.empty()) return of_rank;
  return {};
}

}  // namespace

RankTransport make_host_groups(const Settings& settings, const Launch& launch, const RankGroups& mine,
                               ControlPlane& control, bool own_cpus) {
  const std::string& wanted = settings.word("comm");
  if (launch.world == 1) return {solo_groups(), "none"};
  if (wanted == "mpi" || (wanted == "auto" && launch.mpi_expected)) {
    const std::string why = try_mpi(launch, control, wanted == "auto");
    if (why.empty()) return {mpi_groups(launch.rank, launch.world, mine.tp_ranks, mine.pp_ranks), "mpi"};
    if (wanted == "mpi") throw Error(why);
    if (launch.rank == 0) log_warning(fmt::format("sums go over TCP, not MPI: {}", why));
  } else if (launch.rank == 0) {
    log_info(wanted == "tcp" ? "sums go over TCP" : "sums go over TCP: the ranks were started without MPI's launcher");
  }
  set_start_stage("connecting the ranks over TCP");
  std::vector<int> sockets;
  for (Socket& socket : control.connect_peers(settings.number("formation-timeout")))
    sockets.push_back(socket.release());
  return {tcp_groups(launch.rank, std::move(sockets), mine.tp_ranks, mine.pp_ranks, own_cpus), "tcp"};
}

}  // namespace sluice
