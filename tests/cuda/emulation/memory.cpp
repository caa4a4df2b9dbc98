// SPDX-License-Identifier: Apache-2.0
// Device and pinned memory. Fresh and freed device memory holds noise, and guards on both sides are checked when it is
// freed. A copy from pinned memory reads it when the stream comes to it; from pageable memory when it is called.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "runtime.h"

namespace sluice::emulation {
namespace {

constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xc5, kNoise = 0xff;

struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Allocation> allocations;  // by first byte of the front guard
  size_t used = 0;
};
Memory& memory() {
  static Memory* const m = new Memory;
  return *m;
}

size_t capacity() {
  const char* text = std::getenv("SLUICE_EMULATION_MEMORY");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : size_t{2} << 30;
}

void check_guards(const Allocation& a) {
  for (size_t i = 1; i <= kGuard; ++i) {
    const unsigned char* end = a.begin + a.bytes;
    if (*(a.begin - i) != kGuardByte || end[i - 1] != kGuardByte) {
      std::fprintf(stderr, "emulation: wrote beside an allocation of %zu bytes\n", a.bytes);
      std::abort();
    }
  }
}

cudaError_t take(void** out, size_t bytes, bool device) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (bytes == 0) {
    *out = nullptr;
    return cudaSuccess;
  }
  if (device && m.used + bytes > capacity()) return cudaErrorMemoryAllocation;
  const size_t padded = (bytes + kGuard - 1) / kGuard * kGuard;
  auto* base = static_cast<unsigned char*>(std::aligned_alloc(256, padded + 2 * kGuard));
  if (base == nullptr) return cudaErrorMemoryAllocation;
  // Large device memory starts as zero pages: noise would touch what may never be used.
  if (padded <= size_t{64} << 20) {
    std::memset(base, device ? kNoise : 0, padded + 2 * kGuard);
  }
  std::memset(base, kGuardByte, kGuard);
  std::memset(base + kGuard + bytes, kGuardByte, padded - bytes + kGuard);
  m.allocations[reinterpret_cast<uintptr_t>(base)] = {base + kGuard, bytes, device};
  if (device) m.used += bytes;
  *out = base + kGuard;
  return cudaSuccess;
}

cudaError_t give_back(void* pointer, bool device) {
  if (pointer == nullptr) return cudaSuccess;
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  drain();
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto found = m.allocations.find(reinterpret_cast<uintptr_t>(pointer) - kGuard);
  if (found == m.allocations.end() || found->second.device != device) return cudaErrorInvalidValue;
  check_guards(found->second);
  if (device) m.used -= found->second.bytes;
  if (found->second.bytes <= size_t{64} << 20) std::memset(pointer, kNoise, found->second.bytes);
  m.allocations.erase(found);
  std::free(static_cast<unsigned char*>(pointer) - kGuard);
  return cudaSuccess;
}

bool late(const void* pointer) { return find_allocation(pointer) != nullptr; }

}  // namespace

const Allocation* find_allocation(const void* address) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const uintptr_t a = reinterpret_cast<uintptr_t>(address);
  auto next = m.allocations.upper_bound(a);
  if (next == m.allocations.begin()) return nullptr;
  const Allocation& found = (--next)->second;
  return a < reinterpret_cast<uintptr_t>(found.begin) + found.bytes + kGuard ? &found : nullptr;
}

}  // namespace sluice::emulation

using namespace sluice::emulation;

extern "C" {

cudaError_t cudaMalloc(void** out, size_t bytes) {
  return capturing() ? cudaErrorStreamCaptureUnsupported : take(out, bytes, true);
}
cudaError_t cudaFree(void* pointer) { return give_back(pointer, true); }
cudaError_t cudaMallocHost(void** out, size_t bytes) {
  return capturing() ? cudaErrorStreamCaptureUnsupported : take(out, bytes, false);
}
cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) { return cudaMallocHost(out, bytes); }
cudaError_t cudaFreeHost(void* pointer) { return give_back(pointer, false); }

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  const std::lock_guard lock(memory().mutex);
  *total = capacity();
  *free_bytes = *total - memory().used;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer) {
  *out = {};
  const Allocation* a = find_allocation(pointer);
  out->type = a == nullptr ? cudaMemoryTypeUnregistered : a->device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
  out->devicePointer = out->hostPointer = const_cast<void*>(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!late(from)) {
    std::vector<unsigned char> staged(static_cast<const unsigned char*>(from),
                                      static_cast<const unsigned char*>(from) + bytes);
    return enqueue(stream, [to, staged = std::move(staged)] { std::memcpy(to, staged.data(), staged.size()); });
  }
  const cudaError_t error = enqueue(stream, [=] { std::memmove(to, from, bytes); });
  if (error != cudaSuccess || late(to)) return error;
  return cudaStreamSynchronize(stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t rows,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  for (size_t row = 0; row < rows; ++row) {
    const cudaError_t error =
        cudaMemcpyAsync(static_cast<unsigned char*>(to) + row * to_pitch,
                        static_cast<const unsigned char*>(from) + row * from_pitch, width, kind, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  return enqueue(stream, [=] { std::memset(to, value, bytes); });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  const cudaError_t error = cudaMemsetAsync(to, value, bytes, nullptr);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

}  // extern "C"
