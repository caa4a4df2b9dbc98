// SPDX-License-Identifier: Apache-2.0
#include "peer_sum.h"

#include "device.h"
#include "launch.h"
#ifdef SLUICE_CUDA_EMULATED
#include <sched.h>
#endif

namespace sluice::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kFlagBytes = int64_t{kPeerBlocks} * kPeerRanks * static_cast<int64_t>(sizeof(uint32_t));

__device__ __forceinline__ uint32_t* flag(void* area, int block, int of_rank) {
  return static_cast<uint32_t*>(area) + block * kPeerRanks + of_rank;
}
// Where rank `from` of `size` leaves a block's chunk. Two turns: who sends the second next one has been told by all
// ranks of the next one, which they begin when they have read this one.
__device__ __forceinline__ char* chunk(void* area, uint32_t turn, int size, int from, int block) {
  const int64_t slot = (int64_t{turn & 1} * size + from) * kPeerBlocks + block;
  return static_cast<char*>(area) + kFlagBytes + slot * kPeerChunk;
}

// What was written before is seen by who waits for the flag, on any device of the host.
__device__ __forceinline__ void tell(uint32_t* flag, uint32_t turn) {
#ifdef SLUICE_CUDA_EMULATED
  __atomic_store_n(flag, turn, __ATOMIC_RELEASE);
#else
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(turn) : "memory");
#endif
}
__device__ __forceinline__ void wait_for(uint32_t* flag, uint32_t turn) {
  for (;;) {
    uint32_t told;
#ifdef SLUICE_CUDA_EMULATED
    told = __atomic_load_n(flag, __ATOMIC_ACQUIRE);
#else
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(told) : "l"(flag) : "memory");
#endif
    if (static_cast<int32_t>(told - turn) >= 0) return;  // the others may be one turn ahead
#ifdef SLUICE_CUDA_EMULATED
    sched_yield();
#endif
  }
}

// Grid: one block per kPeerChunk bytes of the message. Job: its chunk, sent to every rank and summed from what they
// sent. Precondition: elements is a multiple of N and inout aligned to N elements. Bytes moved: size * message out,
// size * message read, message written.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) peer_sum_kernel(const __grid_constant__ PeerSumParams p) {
  using P = Pack<T, N>;
  constexpr int64_t kPacks = kPeerChunk / static_cast<int64_t>(sizeof(P));
  const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const uint32_t turn = p.turns[block] + 1;
  P* const message = static_cast<P*>(p.inout) + block * kPacks;
  const int64_t left = p.elements / N - block * kPacks, here = left < kPacks ? left : kPacks;

  for (int64_t i = thread; i < here; i += kThreads) {
    const P own = message[i];
    for (int step = 1; step <= p.size; ++step) {  // each rank starts with another one
      const int to = (p.rank + step) % p.size;
      reinterpret_cast<P*>(chunk(p.areas[to], turn, p.size, p.rank, block))[i] = own;
    }
  }
  __threadfence_system();
  __syncthreads();
  if (thread < p.size) tell(flag(p.areas[thread], block, p.rank), turn);
  __syncthreads();
  if (thread < p.size) wait_for(flag(p.areas[p.rank], block, thread), turn);
  __syncthreads();

  for (int64_t i = thread; i < here; i += kThreads) {
    float sum[N] = {};
    for (int from = 0; from < p.size; ++from) {
      const P v = reinterpret_cast<const P*>(chunk(p.areas[p.rank], turn, p.size, from, block))[i];
#pragma unroll
      for (int e = 0; e < N; ++e) sum[e] += to_float(v.at[e]);
    }
    P out;
#pragma unroll
    for (int e = 0; e < N; ++e) out.at[e] = from_float<T>(sum[e]);
    message[i] = out;
  }
  if (thread == 0) p.turns[block] = turn;
}

}  // namespace

size_t peer_area_bytes(int size) {
  constexpr int64_t kWhole = int64_t{2} << 20;
  return static_cast<size_t>((kFlagBytes + 2 * size * kPeerBytes + kWhole - 1) / kWhole * kWhole);
}

cudaError_t peer_sum(const PeerSumParams& p, cudaStream_t stream) {
  return with_type(p.type, [&](auto element) {
    using T = decltype(element);
    constexpr int N = kPack<T>;
    const int64_t bytes = p.elements * static_cast<int64_t>(sizeof(T));
    if (p.size < 2 || p.size > kPeerRanks || bytes > kPeerBytes) return cudaErrorInvalidValue;
    const dim3 grid(blocks_for(bytes, kPeerChunk));
    const bool packed = p.elements % N == 0 && aligned16(p.inout, 0, sizeof(T));
    return packed ? launch("peer_sum", peer_sum_kernel<T, N>, grid, kThreads, 0, stream, p)
                  : launch("peer_sum", peer_sum_kernel<T, 1>, grid, kThreads, 0, stream, p);
  });
}

}  // namespace sluice::kernels
