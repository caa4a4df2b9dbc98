// SPDX-License-Identifier: Apache-2.0
// How ranks on CPUs move host memory: over MPI where its launcher is there and it works, else over TCP.
#pragma once

#include "base/settings.h"
#include "cluster/launch.h"
#include "cluster/placement.h"
#include "comm/communicator.h"
#include "control/control.h"

namespace sluice {

struct RankTransport {
  Groups groups;
  std::string transport;  // "none" for one rank, "mpi", "tcp"
};

// Called by every rank at once, on the thread that will use the groups. `own_cpus`: whether every rank of this host has
// CPUs of its own. Throws Error, on every rank.
RankTransport make_host_groups(const Settings& settings, const Launch& launch, const RankGroups& mine,
                               ControlPlane& control, bool own_cpus);

}  // namespace sluice
