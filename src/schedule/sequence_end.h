// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace sluice {

enum class SequenceEnd : uint8_t { kNone, kLength, kEos, kStopId };

}  // namespace sluice
