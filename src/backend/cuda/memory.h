// SPDX-License-Identifier: Apache-2.0
// Device memory, and what carries bytes between host and device: a ring of page-locked memory for small uploads, and
// slots for results on their way back.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "tensor/tensor.h"

namespace sluice::cuda {

// Device memory, zeroed in stream order. Throws Error with the numbers when there is not enough.
Buffer allocate_device(size_t bytes, cudaStream_t stream);

// Working memory that only grows. What it gave before stays valid, because a recorded graph may hold its address.
class Workspace {
 public:
  // At least `bytes`, aligned to 256, zeroed when fresh. Must not grow while a graph is recorded: the step that is
  // recorded has run before with the same sizes.
  void* reserve(size_t bytes, cudaStream_t stream);

 private:
  std::vector<Buffer> all_;
  size_t most_ = 0;
};

// Uploads through page-locked memory: the source may be reused at return. A stretch is used again once the copies out
// of it are done.
class UploadRing {
 public:
  explicit UploadRing(cudaStream_t stream);
  ~UploadRing();
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;

  // `rows` rows of `row_bytes`, contiguous on the host, `pitch` bytes apart on the device.
  void upload(void* device, size_t pitch, const void* host, size_t row_bytes, size_t rows);

 private:
  static constexpr int kParts = 8;
  static constexpr size_t kPartBytes = size_t{2} << 20;
  void next_part();

  cudaStream_t stream_;
  char* memory_ = nullptr;  // kParts * kPartBytes
  cudaEvent_t done_[kParts];
  int part_ = 0;
  size_t used_ = 0;  // of the part
};

// Downloads in order, each waited for by itself.
class Downloads {
 public:
  explicit Downloads(cudaStream_t stream, int slots);
  ~Downloads();
  Downloads(const Downloads&) = delete;
  Downloads& operator=(const Downloads&) = delete;
  void start(const void* device, size_t bytes);
  void finish(void* host);

 private:
  struct Slot {
    char* memory = nullptr;  // page-locked
    size_t room = 0, bytes = 0;
    cudaEvent_t done = nullptr;
  };
  cudaStream_t stream_;
  std::vector<Slot> slots_;
  uint64_t begun_ = 0, ended_ = 0;
};

// Page-locked host memory, known by address so that copies out of it need no detour.
class PinnedMemory {
 public:
  static Buffer allocate(size_t bytes, int device);  // on any thread; throws Error
  static bool holds(const void* host, size_t bytes);
};

}  // namespace sluice::cuda
