// SPDX-License-Identifier: Apache-2.0
#include "block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"
#include "watch.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace sluice::emulation {
namespace {

enum class State : uint8_t { kReady, kBarrier, kExchange, kDone };

// Exchanges among one set of lanes. Two sets of slots take turns: who waits for exchange n + 1 has read exchange n.
struct LaneGroup {
  unsigned mask = 0, arrived = 0;
  uint64_t generation = 0;
  WarpSlots slots[2];
};

struct Warp {
  std::vector<std::unique_ptr<LaneGroup>> groups;
};

struct Thread {
  Fiber fiber;
  State state = State::kDone;
  uint3 index;
};

constexpr size_t kGuard = 64;
constexpr unsigned char kGuardByte = 0xa7;

struct Runner {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::vector<int> order;
  std::vector<unsigned char> shared;
  unsigned char* shared_base = nullptr;
  int n = 0, current = 0, running = 0, at_barrier = 0, vote = 0, last_vote = 0;
  Body body = nullptr;
  const void* params = nullptr;
  const char* name = "";
  uint64_t random = 0x9e3779b97f4a7c15ull;
};
Runner run;

[[noreturn]] void fail(const char* format, ...) {
  std::fprintf(stderr, "emulation: kernel %s, block (%u, %u, %u): ", run.name, blockIdx.x, blockIdx.y, blockIdx.z);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

Thread& self() { return *run.threads[static_cast<size_t>(run.current)]; }

void wait_as(State state) {
  self().state = state;
  self().fiber.pause();
}

void entry() {
  run.body(run.params);
  --run.running;
  wait_as(State::kDone);
}

void draw_order() {
  std::iota(run.order.begin(), run.order.end(), 0);
  switch (draw() % 4) {
    case 0:
      break;
    case 1:
      std::reverse(run.order.begin(), run.order.end());
      break;
    default:
      for (size_t i = run.order.size(); i > 1; --i) std::swap(run.order[i - 1], run.order[draw() % i]);
  }
}

void release_barrier() {
  for (int i = 0; i < run.n; ++i) {
    if (run.threads[static_cast<size_t>(i)]->state == State::kBarrier)
      run.threads[static_cast<size_t>(i)]->state = State::kReady;
  }
  run.at_barrier = 0;
  run.last_vote = run.vote;
  run.vote = 0;
  watch_barrier();
  draw_order();
}

void stuck() {
  int exchange = 0, first = -1;
  for (int i = 0; i < run.n; ++i) {
    if (run.threads[static_cast<size_t>(i)]->state != State::kExchange) continue;
    ++exchange;
    if (first < 0) first = i;
  }
  fail("no thread can go on: %d wait at a barrier, %d for their warp (first: thread %d), %d have returned",
       run.at_barrier, exchange, first, run.n - run.running);
}

void run_block() {
  unsigned char* base = run.shared_base;
  const size_t bytes = run.shared.size() - 2 * kGuard;
  std::memset(run.shared.data(), kGuardByte, run.shared.size());
  // NaN in every type, and no small number as an integer.
  std::memset(base, 0xff, bytes);
  watch_block(base, bytes);
  for (Warp& warp : run.warps) {
    for (auto& group : warp.groups) group->arrived = 0;
  }
  for (int i = 0; i < run.n; ++i) {
    Thread& thread = *run.threads[static_cast<size_t>(i)];
    thread.state = State::kReady;
    thread.fiber.start(entry);
  }
  run.running = run.n;
  run.at_barrier = run.vote = 0;
  draw_order();
  while (run.running > 0) {
    bool moved = false;
    for (size_t at = 0; at < run.order.size(); ++at) {
      const int i = run.order[at];
      Thread& thread = *run.threads[static_cast<size_t>(i)];
      if (thread.state != State::kReady) continue;
      moved = true;
      run.current = i;
      threadIdx = thread.index;
      thread.fiber.resume();
    }
    if (moved) continue;
    if (run.at_barrier == 0 || run.at_barrier != run.running) stuck();
    release_barrier();
  }
  for (size_t i = 0; i < kGuard; ++i) {
    if (run.shared[i] != kGuardByte || run.shared[run.shared.size() - 1 - i] != kGuardByte)
      fail("wrote beside its %zu bytes of shared memory", bytes);
  }
}

}  // namespace

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, Body body, const void* params, const char* name) {
  const int n = static_cast<int>(block.x * block.y * block.z);
  run.name = name;
  if (n < 1 || n > 1024 || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535)
    fail("a grid of (%u, %u, %u) blocks of %d threads cannot start", grid.x, grid.y, grid.z, n);
  while (static_cast<int>(run.threads.size()) < n) run.threads.push_back(std::make_unique<Thread>());
  run.n = n;
  run.body = body;
  run.params = params;
  run.order.resize(static_cast<size_t>(n));
  run.warps.resize(static_cast<size_t>((n + kWarp - 1) / kWarp));
  run.shared.resize(shared_bytes + 2 * kGuard);
  run.shared_base = run.shared.data() + kGuard;
  while (reinterpret_cast<uintptr_t>(run.shared.data()) % 16 != 0) std::abort();
  blockDim = block;
  gridDim = grid;
  for (int i = 0; i < n; ++i) {
    const unsigned u = static_cast<unsigned>(i);
    run.threads[static_cast<size_t>(i)]->index = {u % block.x, u / block.x % block.y, u / block.x / block.y};
  }
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  // Blocks come in a random rotation, forwards or backwards; those that wait for their twins on other devices, which
  // all run at once there, in the one order that every rank has.
  const bool meets = std::strcmp(name, "peer_sum") == 0;
  const uint64_t first = meets ? 0 : draw() % blocks;
  const bool backwards = !meets && draw() % 2 != 0;
  for (uint64_t k = 0; k < blocks; ++k) {
    const uint64_t b = (first + (backwards ? blocks - k : k)) % blocks;
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    run_block();
  }
  watch_end();
}

void block_barrier() {
  ++run.at_barrier;
  wait_as(State::kBarrier);
}

int block_barrier_or(int predicate) {
  run.vote |= predicate != 0;
  block_barrier();
  return run.last_vote;
}

const WarpSlots& warp_exchange(unsigned mask, const void* data, size_t bytes, void (*finish)(WarpSlots&)) {
  const int index = run.current, own = index % kWarp;
  Warp& warp = run.warps[static_cast<size_t>(index / kWarp)];
  if ((mask >> own & 1) == 0) fail("thread %d takes part in an exchange whose mask leaves it out", index);
  LaneGroup* group = nullptr;
  for (const auto& g : warp.groups) {
    if (g->mask == mask) group = g.get();
  }
  if (group == nullptr) {
    warp.groups.push_back(std::make_unique<LaneGroup>());
    group = warp.groups.back().get();
    group->mask = mask;
  }
  WarpSlots& slots = group->slots[group->generation % 2];
  if (bytes > 0) std::memcpy(slots.in[own], data, bytes);
  group->arrived |= 1u << own;
  if (group->arrived != mask) {
    wait_as(State::kExchange);
    return slots;
  }
  if (finish != nullptr) finish(slots);
  group->arrived = 0;
  ++group->generation;
  watch_warp(index / kWarp, mask);
  for (int l = 0; l < kWarp; ++l) {
    if ((mask >> l & 1) != 0 && l != own)
      run.threads[static_cast<size_t>(index / kWarp * kWarp + l)]->state = State::kReady;
  }
  return slots;
}

void yield_thread() { wait_as(State::kReady); }
unsigned char* shared_bytes() { return run.shared_base; }
int lane() { return run.current % kWarp; }
int thread_index() { return run.current; }

void set_seed(uint64_t seed) { run.random = seed * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull; }

uint32_t draw() {
  uint64_t z = run.random += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
}

}  // namespace sluice::emulation
