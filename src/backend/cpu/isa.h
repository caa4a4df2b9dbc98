// SPDX-License-Identifier: Apache-2.0
// Which instructions the CPU backend may use: what the processor and the system allow, capped by the options.
#pragma once

#include <cstdint>
#include <string_view>

namespace sluice {

struct CpuIsa {
  int64_t vector_targets = 0;  // Highway's target bits for the vector kernels
  bool bf16_pairs = false;     // dot products of bf16 pairs are worth using: AMD's, at full rate
  bool amx_bf16 = false;       // tile products; the system has granted the tile state
  bool vnni = false;           // four-way dot products of bytes on 512 bits
  bool call_ahead = true;      // the processor's own prefetcher stops at pages; not AMD's, which calling disturbs
  std::string_view name;       // best of them, for the start line
};

// `wanted` is "auto" or "avx2". Asks the kernel for the AMX tile state, once per process. Throws Error on another name.
CpuIsa detect_isa(std::string_view wanted);

}  // namespace sluice
