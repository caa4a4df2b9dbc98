// SPDX-License-Identifier: Apache-2.0
// Monotonic time as seconds, and wall time as seconds since 1970.
#pragma once

#include <chrono>

namespace sluice {

inline double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
inline double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace sluice
