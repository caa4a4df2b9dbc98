// SPDX-License-Identifier: Apache-2.0
// GPUs and MIG slices that clusters have, by the names of their Slurm requests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

struct GpuType {
  std::string name;       // as one types it: "a100:80", "h100", "a100:80/3g.40gb"
  std::string gres;       // usual type in --gpus-per-node=TYPE:N; sites differ
  double memory_gib = 0;  // what a process finds there
  double read_gbps = 0;   // GB/s of device memory, from data sheets; of a slice its share
  bool slice = false;     // MIG: no peer access, so one rank each
  bool supported = true;  // compute capability 8.0 and up
};

const std::vector<GpuType>& gpu_types();

// "a100:40", "A100-80GB", "h100", "a100l", "a100:80/3g.40gb", "a100l.3", or "NAME:GIB" for any other. Throws Error that
// lists what is known.
GpuType find_gpu(const std::string& name);

}  // namespace sluice
