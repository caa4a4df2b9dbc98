// SPDX-License-Identifier: Apache-2.0
// What a rank says of itself before anything else happens, and what every rank knows of all others afterwards.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
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

// Bytes appended to `out`, equal on every machine; parse() reads one Hello back and returns false when they are not
// one.
void serialise(const Hello& hello, std::string& out);
bool parse(std::string_view bytes, Hello& hello);

}  // namespace sluice
