// SPDX-License-Identifier: Apache-2.0
// `sluice doctor` as several tasks: whether the ranks find each other, and how fast they exchange.
#pragma once

#include "cluster/launch.h"
#include "launch/findings.h"

namespace sluice {

// Called by every rank; the findings are whole on rank 0 and empty elsewhere. Throws Error.
Findings examine_ranks(const Launch& launch, bool gpu);

}  // namespace sluice
