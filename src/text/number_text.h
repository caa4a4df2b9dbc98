// SPDX-License-Identifier: Apache-2.0
// Numbers as Python writes them.
#pragma once

#include <string>

namespace sluice {

// repr(float): the shortest digits that read back, "1.0", "1e+20", "inf", "nan".
std::string python_float(double value);

}  // namespace sluice
