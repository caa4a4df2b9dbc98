// SPDX-License-Identifier: Apache-2.0
// How many files and sockets this process may have open.
#pragma once

#include <cstdint>

namespace sluice {

// Lets it have 65536, or as many as the system allows, where it may have fewer; no other limit changes. Returns how
// many it may have.
uint64_t raise_descriptor_limit();

}  // namespace sluice
