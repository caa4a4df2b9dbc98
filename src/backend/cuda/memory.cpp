// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "backend/cuda/check.h"
#include "backend/cuda/shared_blocks.h"

namespace sluice::cuda {
namespace {

std::mutex pinned_mutex;
struct Pinned {
  size_t bytes;
  bool ours;  // registered, not CUDA's own
};
std::map<const char*, Pinned> pinned;

// Makes the pages of fresh memory.
void touch(char* data, size_t bytes) {
  constexpr size_t kPage = 4096, kAtOnce = size_t{32} << 20;
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t at = next.fetch_add(kAtOnce); at < bytes; at = next.fetch_add(kAtOnce)) {
      for (size_t i = at; i < std::min(bytes, at + kAtOnce); i += kPage) static_cast<volatile char*>(data)[i] = 0;
    }
  };
  const size_t most = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 16);  // CPUs that this process may use
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(most, (bytes + kAtOnce - 1) / kAtOnce); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

// Never destroyed: buffers of static duration may come back late.
struct DeviceMemory {
  std::mutex mutex;
  SharedBlocks blocks;
};
DeviceMemory& device_memory() {
  static DeviceMemory* const memory = new DeviceMemory;
  return *memory;
}

cudaError_t take_device(void** out, size_t bytes) {
  if (SharedBlocks::suits(bytes)) {
    const std::lock_guard lock(device_memory().mutex);
    if (*out = device_memory().blocks.take(bytes); *out != nullptr) return cudaSuccess;
  }
  return cudaMalloc(out, bytes);
}

void give_device_back(void* data, size_t bytes) {
  if (SharedBlocks::suits(bytes)) {
    const std::lock_guard lock(device_memory().mutex);
    if (device_memory().blocks.give_back(data)) return;
  }
  cudaFree(data);
}

double gib(size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

Buffer allocate_device(size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return {};
  void* data = nullptr;
  if (const cudaError_t error = take_device(&data, bytes); error != cudaSuccess) {
    if (error != cudaErrorMemoryAllocation) fail(error, "cudaMalloc", CodePlace::here());
    cudaGetLastError();
    size_t free_bytes = 0, total = 0;
    SLUICE_CUDA(cudaMemGetInfo(&free_bytes, &total));
    throw Error(
        fmt::format("{:.2f} GiB of GPU memory are needed and {:.2f} of {:.2f} GiB are free; use a smaller model "
                    "or cache, or more GPUs",
                    gib(bytes), gib(free_bytes), gib(total)));
  }
  SLUICE_CUDA(cudaMemsetAsync(data, 0, bytes, stream));
  return Buffer(data, bytes, give_device_back);
}

void* Workspace::reserve(size_t bytes, cudaStream_t stream) {
  if (all_.empty() || bytes > most_) {
    most_ = std::max(bytes, most_ + most_ / 2);
    all_.push_back(allocate_device(std::max<size_t>(most_, 256), stream));
  }
  return all_.back().data();
}

UploadRing::UploadRing(cudaStream_t stream) : stream_(stream) {
  void* memory = nullptr;
  SLUICE_CUDA(cudaHostAlloc(&memory, kParts * kPartBytes, cudaHostAllocDefault));
  memory_ = static_cast<char*>(memory);
  for (cudaEvent_t& event : done_) {
    SLUICE_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    SLUICE_CUDA(cudaEventRecord(event, stream_));
  }
}

UploadRing::~UploadRing() {
  for (const cudaEvent_t event : done_) {
    cudaEventSynchronize(event);
    cudaEventDestroy(event);
  }
  cudaFreeHost(memory_);
}

void UploadRing::next_part() {
  SLUICE_CUDA(cudaEventRecord(done_[part_], stream_));
  part_ = (part_ + 1) % kParts;
  SLUICE_CUDA(cudaEventSynchronize(done_[part_]));
  used_ = 0;
}

void UploadRing::upload(void* device, size_t pitch, const void* host, size_t row_bytes, size_t rows) {
  const auto* from = static_cast<const char*>(host);
  auto* to = static_cast<char*>(device);
  if (rows > 1 && pitch == row_bytes) {
    row_bytes *= rows;
    rows = 1;
  }
  check(rows == 1 || row_bytes <= kPartBytes, "a row of an upload exceeds a part of the ring");
  while (rows > 0) {
    if (used_ == kPartBytes || (rows > 1 && kPartBytes - used_ < row_bytes)) next_part();
    const size_t room = kPartBytes - used_;
    const size_t now = rows == 1 ? std::min(row_bytes, room) : row_bytes;   // bytes of a row
    const size_t count = rows == 1 ? 1 : std::min(rows, room / row_bytes);  // rows
    char* stage = memory_ + static_cast<size_t>(part_) * kPartBytes + used_;
    std::memcpy(stage, from, now * count);
    if (count == 1) {
      SLUICE_CUDA(cudaMemcpyAsync(to, stage, now, cudaMemcpyHostToDevice, stream_));
    } else {
      SLUICE_CUDA(cudaMemcpy2DAsync(to, pitch, stage, now, now, count, cudaMemcpyHostToDevice, stream_));
    }
    used_ = std::min(kPartBytes, (used_ + now * count + 255) / 256 * 256);
    from += now * count;
    if (now < row_bytes) {
      to += now;
      row_bytes -= now;
    } else {
      to += pitch * count;
      rows -= count;
    }
  }
}

Downloads::Downloads(cudaStream_t stream, int slots) : stream_(stream), slots_(static_cast<size_t>(slots)) {
  for (Slot& slot : slots_) SLUICE_CUDA(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming));
}

Downloads::~Downloads() {
  for (const Slot& slot : slots_) {
    cudaEventSynchronize(slot.done);
    cudaEventDestroy(slot.done);
    cudaFreeHost(slot.memory);
  }
}

void Downloads::start(const void* device, size_t bytes) {
  check(begun_ - ended_ < slots_.size(), "too many copies to the host are under way");
  Slot& slot = slots_[begun_++ % slots_.size()];
  if (slot.room < bytes) {
    SLUICE_CUDA(cudaFreeHost(slot.memory));
    slot.room = std::max<size_t>(4096, bytes + bytes / 2);
    void* memory = nullptr;
    SLUICE_CUDA(cudaHostAlloc(&memory, slot.room, cudaHostAllocDefault));
    slot.memory = static_cast<char*>(memory);
  }
  slot.bytes = bytes;
  SLUICE_CUDA(cudaMemcpyAsync(slot.memory, device, bytes, cudaMemcpyDeviceToHost, stream_));
  SLUICE_CUDA(cudaEventRecord(slot.done, stream_));
}

void Downloads::finish(void* host) {
  check(begun_ > ended_, "no copy to the host is under way");
  const Slot& slot = slots_[ended_++ % slots_.size()];
  SLUICE_CUDA(cudaEventSynchronize(slot.done));
  std::memcpy(host, slot.memory, slot.bytes);
}

// The pages are made by many threads and are large ones where the system has them: what cudaHostAlloc does in one
// thread takes longer than reading a gigabyte.
Buffer PinnedMemory::allocate(size_t bytes, int device) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t rounded = std::max(kHuge, (bytes + kHuge - 1) / kHuge * kHuge);
  auto* data = static_cast<char*>(std::aligned_alloc(kHuge, rounded));
  SLUICE_CUDA(cudaSetDevice(device));
  if (data != nullptr) {
    ::madvise(data, rounded, MADV_HUGEPAGE);  // an optimisation only
    touch(data, rounded);
  }
  cudaError_t error =
      data != nullptr ? cudaHostRegister(data, rounded, cudaHostRegisterPortable) : cudaErrorMemoryAllocation;
  const bool ours = error == cudaSuccess;
  if (!ours) {  // a system that locks only what CUDA has allocated
    std::free(std::exchange(data, nullptr));
    cudaGetLastError();
    void* own = nullptr;
    error = cudaHostAlloc(&own, rounded, cudaHostAllocPortable);
    data = static_cast<char*>(own);
  }
  if (error != cudaSuccess) {
    if (error != cudaErrorMemoryAllocation) fail(error, "cudaHostAlloc", CodePlace::here());
    cudaGetLastError();
    throw Error(
        fmt::format("{:.2f} GiB of page-locked memory are needed to load and the system gives none; ask for more "
                    "memory (--mem)",
                    gib(bytes)));
  }
  const std::lock_guard lock(pinned_mutex);
  pinned[data] = {rounded, ours};
  return Buffer(data, bytes, [](void* p, size_t) {
    bool registered = false;
    {
      const std::lock_guard held(pinned_mutex);
      registered = pinned.extract(static_cast<const char*>(p)).mapped().ours;
    }
    if (!registered) {
      cudaFreeHost(p);
      return;
    }
    cudaHostUnregister(p);
    std::free(p);
  });
}

bool PinnedMemory::holds(const void* host, size_t bytes) {
  const std::lock_guard lock(pinned_mutex);
  const auto* at = static_cast<const char*>(host);
  auto after = pinned.upper_bound(at);
  if (after == pinned.begin()) return false;
  --after;
  return at + bytes <= after->first + after->second.bytes;
}

}  // namespace sluice::cuda
