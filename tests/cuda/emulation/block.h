// SPDX-License-Identifier: Apache-2.0
// One block of CUDA threads on one CPU thread: each CUDA thread is a fiber that runs until it meets a barrier or a warp
// exchange. Fibers take turns in an order that is drawn anew at every barrier, so that what a barrier is missing for
// shows. Shared memory is filled with noise before a block starts.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>

namespace sluice::emulation {

constexpr int kWarp = 32;
constexpr size_t kSlotBytes = 64;

// What the lanes of a warp bring to an exchange, and what the last one to come leaves for all.
struct WarpSlots {
  alignas(16) unsigned char in[kWarp][kSlotBytes];
  alignas(16) unsigned char out[kWarp][kSlotBytes];
};

using Body = void (*)(const void* params);

// Runs every thread of every block. Aborts with a message on a deadlock (a barrier that some threads never reach, a
// shuffle that names a lane that is gone) or a write outside the shared memory asked for.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, Body body, const void* params, const char* name);

// For the running fiber.
void block_barrier();
int block_barrier_or(int predicate);
// Gives `bytes` of this lane to the others of `mask` and waits for all of them; the last to come calls `finish`.
const WarpSlots& warp_exchange(unsigned mask, const void* data, size_t bytes, void (*finish)(WarpSlots&) = nullptr);
void yield_thread();  // lets others of the block run first, if the draw says so
unsigned char* shared_bytes();
int lane();
int thread_index();  // in the block

// Draws of orders; equal seeds give equal orders.
void set_seed(uint64_t seed);
uint32_t draw();

}  // namespace sluice::emulation
