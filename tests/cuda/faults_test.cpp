// SPDX-License-Identifier: Apache-2.0
// Kernels with planted faults, each beside its sound twin: the faults must be found, the twins pass. Compiled with the
// instrumentation that emulation/watch.cpp listens to.
#include <string>

#include "cuda/device_arrays.h"
#include "launch.h"
#include "tensor_core.h"

namespace sluice {
namespace {
using namespace test;
using kernels::launch;
using kernels::shared_as;

constexpr int kThreads = 64;

struct Params {
  int32_t* out;
  const int32_t* in;
  bool sound;
};

void barrier_missing(Params p) {
  int32_t* shared = shared_as<int32_t>();
  const unsigned t = threadIdx.x;
  shared[t] = p.in[t];
  if (p.sound) __syncthreads();
  p.out[t] = shared[(t + 1) % kThreads];
}

void counter_race(Params p) {
  if (p.sound) {
    atomicAdd(p.out, 1);
  } else {
    *p.out = *p.out + 1;
  }
}

// Two rounds through one buffer: the second overwrites what slow threads still read.
void buffer_reused(Params p) {
  int32_t* shared = shared_as<int32_t>();
  const unsigned t = threadIdx.x;
  int32_t sum = 0;
  for (int round = 0; round < 2; ++round) {
    shared[t] = p.in[t] + round;
    __syncthreads();
    sum += shared[(t + 7) % kThreads];
    if (p.sound) __syncthreads();
  }
  p.out[t] = sum;
}

void copy_not_waited_for(Params p) {
  int32_t* shared = shared_as<int32_t>();
  const unsigned t = threadIdx.x;
  if (t % 4 == 0) kernels::copy_async(shared + t, p.in + t, true);
  kernels::commit_copies();
  if (p.sound) kernels::wait_copies<0>();
  __syncthreads();
  p.out[t] = shared[t];
  kernels::wait_copies<0>();
}

void shared_not_written(Params p) {
  int32_t* shared = shared_as<int32_t>();
  const unsigned t = threadIdx.x;
  if (p.sound || t > 0) shared[t] = p.in[t];
  __syncthreads();
  p.out[t] = shared[kThreads - 1 - t];
}

void beside_the_array(Params p) {
  const unsigned t = threadIdx.x;
  p.out[t] = p.in[p.sound || t + 1 < kThreads ? t : kThreads + 3];
}

// Block 1 reads what block 0 writes.
void blocks_unordered(Params p) {
  const unsigned t = threadIdx.x;
  if (blockIdx.x == 0) p.out[t] = p.in[t];
  if (blockIdx.x == 1 && !p.sound && p.out[t] == 7) p.out[kThreads + t] = 1;
}

// The lanes of a warp pass values through shared memory.
void warp_unordered(Params p) {
  int32_t* shared = shared_as<int32_t>();
  const unsigned t = threadIdx.x;
  shared[t] = p.in[t];
  if (p.sound) __syncwarp();
  p.out[t] = shared[t ^ 1];
}

struct Fault {
  const char* name;
  void (*kernel)(Params);
  const char* finding;
  unsigned blocks = 1;
};
const Fault kFaults[] = {
    {"barrier_missing", barrier_missing, "what another"},
    {"counter_race", counter_race, "what another"},
    {"buffer_reused", buffer_reused, "what another"},
    {"copy_not_waited_for", copy_not_waited_for, "before it is written"},
    {"shared_not_written", shared_not_written, "before it is written"},
    {"beside_the_array", beside_the_array, "beside an allocation"},
    {"blocks_unordered", blocks_unordered, "what another writes", 2},
    {"warp_unordered", warp_unordered, "what another"},
};

TEST_CASE("every planted fault is found, and its sound twin passes") {
  std::vector<int32_t> in(kThreads);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int32_t>(i * i + 3);
  emulation::set_watch(true);
  for (const Fault& fault : kFaults) {
    for (const bool sound : {true, false}) {
      CAPTURE(std::string(fault.name));
      CAPTURE(sound);
      int found = 0;
      for (uint64_t seed = 1; seed <= 4; ++seed) {
        emulation::set_seed(seed);
        DeviceBytes out(2 * kThreads * 4), d_in(in.data(), kThreads * 4);
        out.zero();
        const Params p{static_cast<int32_t*>(out.data()), static_cast<const int32_t*>(d_in.data()), sound};
        CUDA_OK(launch(fault.name, fault.kernel, dim3(fault.blocks), kThreads, kThreads * 4, nullptr, p));
        CUDA_OK(cudaDeviceSynchronize());
        const std::vector<std::string> findings = emulation::take_findings();
        if (sound) {
          for (const std::string& text : findings) FAIL_CHECK(text);
        }
        for (const std::string& text : findings) found += text.find(fault.finding) != std::string::npos;
      }
      CHECK((found > 0) == !sound);
    }
  }
  emulation::set_watch(false);
}

TEST_CASE("a missing barrier and a buffer reused too early give wrong results without any watching") {
  std::vector<int32_t> in(kThreads);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int32_t>(i * i + 3);
  const DeviceVector<int32_t> d_in(in), out(std::vector<int32_t>(2 * kThreads));
  for (const auto kernel : {barrier_missing, buffer_reused, copy_not_waited_for, warp_unordered}) {
    for (const bool sound : {true, false}) {
      int wrong = 0;
      for (uint64_t seed = 1; seed <= 8; ++seed) {
        emulation::set_seed(seed);
        CUDA_OK(
            launch("fault", kernel, dim3(1), kThreads, kThreads * 4, nullptr, Params{out.data(), d_in.data(), sound}));
        const std::vector<int32_t> got = out.read();
        for (int t = 0; t < kThreads; ++t) {
          const auto at = [&](int i) { return in[static_cast<size_t>(i % kThreads)]; };
          const int32_t want = kernel == barrier_missing  ? at(t + 1)
                               : kernel == buffer_reused  ? 2 * at(t + 7) + 1
                               : kernel == warp_unordered ? at(t ^ 1)
                                                          : at(t);
          wrong += got[static_cast<size_t>(t)] != want;
        }
      }
      CHECK((wrong > 0) == !sound);
    }
  }
}

}  // namespace
}  // namespace sluice
