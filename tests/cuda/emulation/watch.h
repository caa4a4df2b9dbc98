// SPDX-License-Identifier: Apache-2.0
// Watches the memory accesses of kernels that were compiled with the compiler's thread instrumentation, whose hooks are
// defined here: two threads of a block that touch the same bytes, one of them writing, with no barrier between; blocks
// that do so with no fence; accesses beside an allocation; reads of shared memory that nobody wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice::emulation {

// Findings of the kernels run since, one line each, at most 16 kept. Watching is off until asked for.
void set_watch(bool on);
std::vector<std::string> take_findings();

// Called by the emulation itself.
void watch_block(const unsigned char* shared, size_t bytes);
void watch_barrier();
void watch_warp(int warp, unsigned mask);
void watch_fence();
void watch_end();
void watch_atomic(const void* address, size_t bytes);
void watch_access(const void* address, size_t bytes, bool write);

// Accesses inside are the emulation's own.
struct Unwatched {
  Unwatched();
  ~Unwatched();
};

}  // namespace sluice::emulation
