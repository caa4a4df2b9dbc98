// SPDX-License-Identifier: Apache-2.0
// The CPU backend as the tests want it: one thread, and the instruction set that SLUICE_CPU_ISA names.
#pragma once

#include <cstdlib>

#include "backend/backend.h"

namespace sluice::test {

inline std::unique_ptr<Backend> cpu_backend() {
  CpuOptions options;
  options.threads = 1;
  if (const char* isa = std::getenv("SLUICE_CPU_ISA")) options.isa = isa;
  return make_cpu_backend(options);
}

}  // namespace sluice::test
