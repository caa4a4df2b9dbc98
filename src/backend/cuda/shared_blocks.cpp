// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/shared_blocks.h"

#include <cuda_runtime_api.h>

#include <iterator>

namespace sluice::cuda {

bool SharedBlocks::suits(size_t bytes) {
  const size_t lost = (kPage - bytes % kPage) % kPage;
  return bytes >= kPage / 2 && lost > bytes / 32;  // below that cudaMalloc shares pages itself
}

void* SharedBlocks::take_from(Block& block, size_t bytes) {
  for (auto part = block.spare.begin(); part != block.spare.end(); ++part) {
    const auto [at, room] = *part;
    if (room < bytes) continue;
    block.spare.erase(part);
    if (room > bytes) block.spare.emplace(at + bytes, room - bytes);
    block.used.emplace(at, bytes);
    return block.data + at;
  }
  return nullptr;
}

void* SharedBlocks::take(size_t bytes) {
  bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return nullptr;
  for (Block& block : blocks_) {
    if (void* data = block.device == device ? take_from(block, bytes) : nullptr; data != nullptr) return data;
  }
  void* memory = nullptr;
  if (cudaMalloc(&memory, kBlock) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  blocks_.push_front({device, static_cast<char*>(memory), {{0, kBlock}}, {}});
  return take_from(blocks_.front(), bytes);
}

bool SharedBlocks::give_back(void* data) {
  for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
    auto* const at = static_cast<char*>(data);
    if (at < block->data || at >= block->data + kBlock) continue;
    cudaDeviceSynchronize();
    auto used = block->used.extract(static_cast<size_t>(at - block->data));
    const auto part = block->spare.emplace(used.key(), used.mapped()).first;
    if (const auto next = std::next(part); next != block->spare.end() && part->first + part->second == next->first) {
      part->second += next->second;
      block->spare.erase(next);
    }
    if (part != block->spare.begin()) {
      if (const auto before = std::prev(part); before->first + before->second == part->first) {
        before->second += part->second;
        block->spare.erase(part);
      }
    }
    if (block->used.empty()) {
      cudaFree(block->data);
      blocks_.erase(block);
    }
    return true;
  }
  return false;
}

}  // namespace sluice::cuda
