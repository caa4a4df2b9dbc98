// SPDX-License-Identifier: Apache-2.0
// Host-memory groups over plain TCP, for ranks whose launcher gives MPI nothing to start from.
#pragma once

#include <span>
#include <vector>

#include "comm/communicator.h"

namespace sluice {

// `sockets` are connected, non-blocking streams to the other ranks of the run, by world rank, this rank's own -1; they
// are taken over and closed with the last group. The peers have been authenticated. `tp_ranks` and `pp_ranks` as for
// mpi_groups(). `spin`: whether every rank of this host has a CPU to itself.
Groups tcp_groups(int rank, std::vector<int> sockets, std::span<const int> tp_ranks, std::span<const int> pp_ranks,
                  bool spin);

}  // namespace sluice
