// SPDX-License-Identifier: Apache-2.0
// Device memory for matrices of a few megabytes. cudaMalloc takes whole pages of 2 MiB, so that each expert of 3 MB by
// itself would leave a quarter of its pages unused; such sizes share blocks.
#pragma once

#include <cstddef>
#include <list>
#include <map>

namespace sluice::cuda {

// Of the device that is current. Not for several threads at once.
class SharedBlocks {
 public:
  // Whether a thirty-second of the memory or more would be lost in an allocation of its own.
  static bool suits(size_t bytes);
  // Aligned to 256 bytes; null where the device has no block left.
  void* take(size_t bytes);
  // False where take() did not give it. Waits for the device, as cudaFree does, and frees blocks that nobody uses.
  bool give_back(void* data);

 private:
  static constexpr size_t kPage = size_t{2} << 20, kBlock = size_t{64} << 20, kAlign = 256;
  struct Block {
    int device;
    char* data;
    std::map<size_t, size_t> spare, used;  // offset, bytes
  };
  static void* take_from(Block& block, size_t bytes);

  std::list<Block> blocks_;  // the newest first
};

}  // namespace sluice::cuda
