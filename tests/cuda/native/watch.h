// SPDX-License-Identifier: Apache-2.0
// Findings on a real device are compute-sanitizer's.
#pragma once

#include <string>
#include <vector>

namespace sluice::emulation {

inline std::vector<std::string> take_findings() { return {}; }

}  // namespace sluice::emulation
