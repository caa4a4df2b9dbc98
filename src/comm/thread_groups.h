// SPDX-License-Identifier: Apache-2.0
// Ranks as threads of one process over shared memory, for tests of everything that runs on several ranks.
#pragma once

#include <vector>

#include "comm/communicator.h"

namespace sluice {

// Groups of tp * pp ranks, indexed by world rank; rank = stage * tp + tp_rank. Each element belongs to one thread.
// Same sums as every other communicator: f32, in rank order. Waiting threads sleep.
std::vector<Groups> make_thread_groups(int tp, int pp);

}  // namespace sluice
