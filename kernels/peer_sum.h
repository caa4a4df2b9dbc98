// SPDX-License-Identifier: Apache-2.0
// Sums over ranks of one host that see each other's memory, in one launch: for messages whose time in NCCL is latency.
#pragma once

#include "types.h"

namespace sluice::kernels {

constexpr int kPeerRanks = 8;                                      // most ranks of a group
constexpr int kPeerBlocks = 64;                                    // most blocks of a launch
constexpr int64_t kPeerChunk = 8192;                               // bytes of the message that a block sums
constexpr int64_t kPeerBytes = int64_t{kPeerBlocks} * kPeerChunk;  // most bytes of one launch

// What a rank lends to the others of a group of `size`: a flag per block and rank, then two turns of what they send.
// Zero before the first launch of any rank. Whole pieces of 2 MiB, because CUDA IPC lends no less: what else lies in a
// piece would be lent too.
size_t peer_area_bytes(int size);

// inout = the sum over ranks, added in f32 in rank order and rounded once: the same bits on every rank, and of an
// element whatever else the message holds. All ranks launch the same calls in the same order.
struct PeerSumParams {
  void* inout;  // type [elements], contiguous, at most kPeerBytes
  int64_t elements;
  void* areas[kPeerRanks];  // of the ranks 0 to size - 1, mapped here
  uint32_t* turns;          // [kPeerBlocks], this rank's own and zero at first: launches that a block took part in
  int32_t rank, size;
  Type type;
};
cudaError_t peer_sum(const PeerSumParams& p, cudaStream_t stream);

}  // namespace sluice::kernels
