// SPDX-License-Identifier: Apache-2.0
// The end of MPI. The beginning is mpi_groups() in comm/communicator.h.
#pragma once

namespace sluice {

// MPI_Finalize, where mpi_groups() has initialised MPI; otherwise nothing. Called by every rank at a clean end, on the
// thread that made the other calls; their communicators must not be used afterwards. After a loss a rank leaves with
// _exit instead: MPI_Finalize would wait for the dead.
void finish_mpi();

}  // namespace sluice
