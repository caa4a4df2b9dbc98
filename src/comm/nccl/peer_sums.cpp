// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl/peer_sums.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace sluice::nccl {
namespace {

// What a rank tells the others: the boot of its host, which containers share, and the way into its memory.
struct Invitation {
  char boot[40] = {};
  cudaIpcMemHandle_t handle{};
  cudaError_t error = cudaSuccess;
  bool without = false;  // the site says that GPUs do not reach each other's memory
};

void read_boot(char (&out)[40]) {
  if (std::FILE* file = std::fopen("/proc/sys/kernel/random/boot_id", "r")) {
    if (std::fgets(out, sizeof out, file) == nullptr) out[0] = '\0';
    std::fclose(file);
  }
}

bool told_without() {
  const char* text = std::getenv("NCCL_P2P_DISABLE");
  return text != nullptr && *text != '\0' && std::strcmp(text, "0") != 0;
}

}  // namespace

std::unique_ptr<PeerSums> PeerSums::open(int rank, int size, cudaStream_t stream, const Gather& gather,
                                         std::string& why_not) {
  if (size > kernels::kPeerRanks) {
    why_not = fmt::format("more than {} ranks", kernels::kPeerRanks);
    return nullptr;
  }
  std::unique_ptr<PeerSums> out(new PeerSums(rank, size, stream));
  const size_t bytes = kernels::peer_area_bytes(size), turn_bytes = kernels::kPeerBlocks * sizeof(uint32_t);
  const auto own = static_cast<size_t>(rank);

  Invitation mine;
  read_boot(mine.boot);
  mine.without = told_without();
  const auto step = [&](auto&& call) {
    if (mine.error == cudaSuccess) mine.error = call();
  };
  step([&] { return cudaMalloc(&out->areas_[own], bytes); });
  step([&] { return cudaMalloc(&out->turns_, turn_bytes); });
  step([&] { return cudaMemset(out->areas_[own], 0, bytes); });
  step([&] { return cudaMemset(out->turns_, 0, turn_bytes); });
  step([&] { return cudaDeviceSynchronize(); });
  step([&] { return cudaIpcGetMemHandle(&mine.handle, out->areas_[own]); });

  std::vector<Invitation> all(static_cast<size_t>(size));
  gather(all.data(), &mine, sizeof mine);
  const bool one_host = std::ranges::all_of(
      all, [&](const Invitation& i) { return i.boot[0] != '\0' && std::strcmp(i.boot, all[0].boot) == 0; });
  const bool without = std::ranges::any_of(all, [](const Invitation& i) { return i.without; });
  cudaError_t opened = cudaSuccess;
  for (size_t r = 0; r < all.size() && one_host && !without; ++r) {
    if (all[r].error != cudaSuccess) opened = all[r].error;
    if (opened == cudaSuccess && r != own)
      opened = cudaIpcOpenMemHandle(&out->areas_[r], all[r].handle, cudaIpcMemLazyEnablePeerAccess);
  }
  cudaGetLastError();  // a peer that cannot be opened is no error of what follows
  std::vector<cudaError_t> results(static_cast<size_t>(size));
  gather(results.data(), &opened, sizeof opened);
  if (!one_host) {
    why_not = "the group spans hosts";
    return nullptr;
  }
  if (without) {
    why_not = "NCCL_P2P_DISABLE is set";
    return nullptr;
  }
  for (size_t r = 0; r < results.size(); ++r) {
    if (results[r] == cudaSuccess) continue;
    why_not = fmt::format("rank {} of the group cannot open another's memory: {}", r, cudaGetErrorString(results[r]));
    out->close_peers();
    gather(results.data(), &opened, sizeof opened);  // all have closed; the destructor frees
    return nullptr;
  }
  out->lent_ = true;
  return out;
}

void PeerSums::close_peers() {
  for (int r = 0; r < size_; ++r)
    if (r != rank_ && areas_[r] != nullptr) cudaIpcCloseMemHandle(std::exchange(areas_[r], nullptr));
}

PeerSums::~PeerSums() {
  cudaStreamSynchronize(stream_);
  close_peers();
  if (!lent_) cudaFree(areas_[rank_]);
  cudaFree(turns_);
}

cudaError_t PeerSums::sum(const Tensor& inout) {
  kernels::PeerSumParams p{};
  std::copy(std::begin(areas_), std::end(areas_), std::begin(p.areas));
  p.turns = static_cast<uint32_t*>(turns_);
  p.rank = rank_;
  p.size = size_;
  p.type = inout.dtype == DType::kF32    ? kernels::Type::kF32
           : inout.dtype == DType::kBF16 ? kernels::Type::kBF16
                                         : kernels::Type::kF16;
  const auto element = static_cast<int64_t>(dtype_bytes(inout.dtype));
  const int64_t at_once = kernels::kPeerBytes / element, n = inout.elements();
  for (int64_t first = 0; first < n; first += at_once) {
    p.inout = static_cast<char*>(inout.data) + first * element;
    p.elements = std::min(at_once, n - first);
    if (const cudaError_t error = kernels::peer_sum(p, stream_); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace sluice::nccl
