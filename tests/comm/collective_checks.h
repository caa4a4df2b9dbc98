// SPDX-License-Identifier: Apache-2.0
// The same questions to every communicator. Each function returns an empty string or what went wrong, so that threads
// and MPI ranks can report it.
#pragma once

#include <string>

#include "comm/communicator.h"

namespace sluice {

// Sums of `n` floats chosen so that the order of summation shows in the bits; compared with the rank-order sum.
std::string check_all_reduce(Communicator& comm, int64_t n);
// One long sum equals the same elements summed in pieces of `piece`.
std::string check_sum_ignores_length(Communicator& comm, int64_t n, int64_t piece);
std::string check_all_gather(Communicator& comm, int64_t n, bool in_place);
std::string check_broadcast(Communicator& comm, int64_t n, int root);
// Everyone sends `messages` of `n` floats to the next rank before anyone receives.
std::string check_ring(Communicator& comm, int64_t n, int messages);
// All of the above over a range of sizes.
std::string check_everything(Communicator& comm);

}  // namespace sluice
