// SPDX-License-Identifier: Apache-2.0
// The beginning and the end of MPI, around mpi_groups() of comm/communicator.h. One thread makes all calls.
#pragma once

#include <string>

namespace sluice {

// "Open MPI v4.1.4, ...": the library behind the module, before it is initialised. Throws Error as start_mpi().
std::string mpi_library();

// Loads the module and initialises MPI on the calling thread, as mpi_groups() does where nobody has. Throws Error when
// the module is missing, or when MPI's rank or size differs from what is expected, with the launch line that works.
void start_mpi(int expected_rank, int expected_size);

// MPI_Finalize, where MPI has been started; otherwise nothing. Called by every rank at a clean end, on the thread that
// made the other calls; their communicators must not be used afterwards. After a loss a rank leaves with _exit instead:
// MPI_Finalize would wait for the dead.
void finish_mpi();

}  // namespace sluice
