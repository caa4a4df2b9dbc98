// SPDX-License-Identifier: Apache-2.0
// Choosing among the Highway targets compiled into one file. Highway's own choice is one per process, and in 1.0.3
// SupportedTargets() overwrites it without the mask of DisableTargets(), so a cap would not hold; here each backend
// passes its own set. For .cpp files that use hwy/foreach_target.h, after HWY_EXPORT(function).
#pragma once

#include <hwy/targets.h>

#include <cstdint>

namespace sluice {

// Place of the best of `targets` in a dispatch table.
inline size_t target_index(int64_t targets) {
  hwy::ChosenTarget chosen;
  chosen.Update(targets);
  return chosen.GetIndex();
}

}  // namespace sluice

#if (HWY_TARGETS & (HWY_TARGETS - 1)) == 0
#define SLUICE_DISPATCH(function, targets) HWY_STATIC_DISPATCH(function)
#else
#define SLUICE_DISPATCH(function, targets) (*(HWY_DISPATCH_TABLE(function)[::sluice::target_index(targets)]))
#endif
