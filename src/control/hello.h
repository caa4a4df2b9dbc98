// SPDX-License-Identifier: Apache-2.0
// What a rank says of itself before anything else happens, and what every rank knows of all others afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cluster/launch.h"
#include "cluster/placement.h"

namespace sluice {

struct Hello {
  RankPlace place;  // rank, host, boot id, local rank, device
  int world = 1;
  int64_t pid = 0;
  int cpus = 0;       // in the affinity mask
  std::string build;  // build_id() of the executable
};

// This process: host name, boot id, pid, CPUs and build; rank, world and local rank from `launch`. The device is left
// empty for the caller.
Hello describe_process(const Launch& launch);

// Identifies the executable by content: the linker's build id, else the SHA-256 of the file. Hex digits.
const std::string& build_id();

// "rank 3 on n2 (pid 4711)"
std::string to_string(const Hello& hello);

// The places of all ranks, as plan_groups() takes them.
std::vector<RankPlace> places(std::span<const Hello> hellos);

// Little-endian bytes, appended to `out`. Equal on every machine.
void serialise(const Hello& hello, std::vector<std::byte>& out);
// Reads one Hello from the front of `bytes` and advances it; false when they are not one.
bool parse(std::span<const std::byte>& bytes, Hello& hello);

}  // namespace sluice
