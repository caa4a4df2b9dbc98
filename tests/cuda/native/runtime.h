// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "block.h"

namespace sluice::emulation {

inline void set_warpgroup_products(bool) {}

}  // namespace sluice::emulation
