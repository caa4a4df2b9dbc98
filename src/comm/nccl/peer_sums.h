// SPDX-License-Identifier: Apache-2.0
// The all-reduce of kernels/peer_sum.h for a group whose ranks share a host: every rank opens the others' memory by
// CUDA IPC, once.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string>

#include "kernels/peer_sum.h"
#include "tensor/tensor.h"

namespace sluice::nccl {

class PeerSums {
 public:
  // all[r * bytes] = rank r's `mine`, both on the host; waits.
  using Gather = std::function<void(void* all, const void* mine, size_t bytes)>;

  // All ranks of the group call it at once and get the same answer: null where `why_not` says what stands against it.
  static std::unique_ptr<PeerSums> open(int rank, int size, cudaStream_t stream, const Gather& gather,
                                        std::string& why_not);
  ~PeerSums();
  PeerSums(const PeerSums&) = delete;
  PeerSums& operator=(const PeerSums&) = delete;

  // Whether a message of `bytes` is faster this way than over NCCL (the limits that vLLM found on NVLink).
  bool faster(size_t bytes) const { return bytes <= static_cast<size_t>(size_ <= 4 ? 512 << 10 : 256 << 10); }
  // Queued on the stream; longer messages than one launch sums are cut.
  cudaError_t sum(const Tensor& inout);

 private:
  void close_peers();

  PeerSums(int rank, int size, cudaStream_t stream) : rank_(rank), size_(size), stream_(stream) {}

  int rank_, size_;
  cudaStream_t stream_;
  void* areas_[kernels::kPeerRanks] = {};  // areas_[rank_] is this rank's own
  void* turns_ = nullptr;
  // Others may have areas_[rank_] open, and it must not be freed before they have closed it: the end of the process
  // gives it back.
  bool lent_ = false;
};

}  // namespace sluice::nccl
