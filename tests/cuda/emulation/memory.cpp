// SPDX-License-Identifier: Apache-2.0
// Device and pinned memory. Fresh and freed device memory holds noise, and guards on both sides are checked when it is
// freed. A copy from pinned memory reads it when the stream comes to it; from pageable memory when it is called, and
// then cudaMemcpy does not wait for what it wrote. Other processes may open device memory of whole pieces of 2 MiB,
// which lies in a file of its own: smaller memory would lend its neighbours too.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace sluice::emulation {
namespace {

constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xc5, kNoise = 0xff;

// Device memory of multiples of this is a file, for cudaIpcGetMemHandle; behind its last guard, how often it is open.
constexpr size_t kShared = size_t{2} << 20;

struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Allocation> allocations;        // by first byte of the front guard
  std::map<uintptr_t, std::pair<int, size_t>> files;  // descriptor and bytes, by the same
  std::map<uintptr_t, Allocation> registered;         // host memory of others, by first byte
  std::map<uintptr_t, size_t> opened;                 // bytes of other processes' memory, by where it is mapped
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

size_t padded_bytes(size_t bytes) { return (bytes + kGuard - 1) / kGuard * kGuard; }

// AddressSanitizer ends the process at the access itself.
void hide_guards(const Allocation& a) {
  ASAN_POISON_MEMORY_REGION(a.begin - kGuard, kGuard);
  ASAN_POISON_MEMORY_REGION(a.begin + a.bytes, padded_bytes(a.bytes) - a.bytes + kGuard);
}

void check_guards(const Allocation& a) {
  ASAN_UNPOISON_MEMORY_REGION(a.begin - kGuard, padded_bytes(a.bytes) + 2 * kGuard);
  for (size_t i = 1; i <= kGuard; ++i) {
    const unsigned char* end = a.begin + a.bytes;
    if (*(a.begin - i) != kGuardByte || end[i - 1] != kGuardByte) {
      std::fprintf(stderr, "emulation: wrote beside an allocation of %zu bytes\n", a.bytes);
      std::abort();
    }
  }
}

std::atomic<int>& openings(void* base, size_t bytes) {
  return *reinterpret_cast<std::atomic<int>*>(static_cast<unsigned char*>(base) + bytes - sizeof(std::atomic<int>));
}

// What a device gives for `bytes`: whole pages from half a page on.
size_t paged(size_t bytes) {
  constexpr size_t kPage = size_t{2} << 20;
  return bytes < kPage / 2 ? bytes : (bytes + kPage - 1) / kPage * kPage;
}

cudaError_t take(void** out, size_t bytes, bool device) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (bytes == 0) {
    *out = nullptr;
    return cudaSuccess;
  }
  if (device && m.used + paged(bytes) > capacity()) return cudaErrorMemoryAllocation;
  const size_t padded = padded_bytes(bytes);
  unsigned char* base = nullptr;
  if (device && bytes % kShared == 0) {
    const size_t whole = padded + 3 * kGuard;
    const int file = ::memfd_create("device memory", MFD_CLOEXEC);
    if (file < 0 || ::ftruncate(file, static_cast<off_t>(whole)) != 0) return cudaErrorMemoryAllocation;
    void* mapped = ::mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) return cudaErrorMemoryAllocation;
    base = static_cast<unsigned char*>(mapped);
    m.files[reinterpret_cast<uintptr_t>(base)] = {file, whole};
  } else {
    base = static_cast<unsigned char*>(std::aligned_alloc(256, padded + 2 * kGuard));
    if (base == nullptr) return cudaErrorMemoryAllocation;
  }
  // Large device memory starts as zero pages: noise would touch what may never be used.
  if (padded <= size_t{64} << 20) {
    std::memset(base, device ? kNoise : 0, padded + 2 * kGuard);
  }
  std::memset(base, kGuardByte, kGuard);
  std::memset(base + kGuard + bytes, kGuardByte, padded - bytes + kGuard);
  const Allocation& made = m.allocations[reinterpret_cast<uintptr_t>(base)] = {base + kGuard, bytes, device};
  hide_guards(made);
  if (device) m.used += paged(bytes);
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
  if (device) m.used -= paged(found->second.bytes);
  if (found->second.bytes <= size_t{64} << 20) std::memset(pointer, kNoise, found->second.bytes);
  m.allocations.erase(found);
  unsigned char* base = static_cast<unsigned char*>(pointer) - kGuard;
  if (const auto file = m.files.find(reinterpret_cast<uintptr_t>(base)); file != m.files.end()) {
    if (openings(base, file->second.second) > 0) {
      std::fprintf(stderr, "emulation: device memory is freed while another process has it open\n");
      std::abort();
    }
    ::munmap(base, file->second.second);
    ::close(file->second.first);
    m.files.erase(file);
  } else {
    std::free(base);
  }
  return cudaSuccess;
}

bool late(const void* pointer) { return find_allocation(pointer) != nullptr; }

// What a handle holds.
struct Shared {
  pid_t process;
  int file;
  size_t bytes;
};
static_assert(sizeof(Shared) <= sizeof(cudaIpcMemHandle_t));

}  // namespace

const Allocation* find_allocation(const void* address) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const uintptr_t a = reinterpret_cast<uintptr_t>(address);
  auto later = m.registered.upper_bound(a);
  if (later != m.registered.begin() && a < (--later)->first + later->second.bytes) return &later->second;
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

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  if (pointer == nullptr || bytes == 0) return cudaErrorInvalidValue;
  if (std::getenv("SLUICE_EMULATION_REGISTERS_NONE") != nullptr) return cudaErrorNotSupported;
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto begin = static_cast<unsigned char*>(pointer);
  const bool fresh =
      m.registered.try_emplace(reinterpret_cast<uintptr_t>(pointer), Allocation{begin, bytes, false}).second;
  return fresh ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered;
}
cudaError_t cudaHostUnregister(void* pointer) {
  drain();
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  return m.registered.erase(reinterpret_cast<uintptr_t>(pointer)) == 1 ? cudaSuccess : cudaErrorHostMemoryNotRegistered;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* out, void* pointer) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto file = m.files.find(reinterpret_cast<uintptr_t>(pointer) - kGuard);
  if (file == m.files.end()) return cudaErrorInvalidValue;
  const Shared shared{::getpid(), file->second.first, file->second.second};
  std::memcpy(out, &shared, sizeof shared);
  return cudaSuccess;
}
cudaError_t cudaIpcOpenMemHandle(void** out, cudaIpcMemHandle_t handle, unsigned) {
  const char* hides = std::getenv("SLUICE_EMULATION_HIDES_PEERS");
  const bool loses = hides != nullptr && std::strcmp(hides, "writes") == 0;  // as behind some IOMMUs
  if (hides != nullptr && !loses) return cudaErrorPeerAccessUnsupported;
  Shared shared;
  std::memcpy(&shared, &handle, sizeof shared);
  const std::string path = "/proc/" + std::to_string(shared.process) + "/fd/" + std::to_string(shared.file);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return cudaErrorInvalidValue;
  void* mapped = ::mmap(nullptr, shared.bytes, PROT_READ | PROT_WRITE, loses ? MAP_PRIVATE : MAP_SHARED, file, 0);
  ::close(file);
  if (mapped == MAP_FAILED) return cudaErrorInvalidValue;
  ++openings(mapped, shared.bytes);
  *out = static_cast<unsigned char*>(mapped) + kGuard;
  const std::lock_guard lock(memory().mutex);
  memory().opened[reinterpret_cast<uintptr_t>(*out)] = shared.bytes;
  return cudaSuccess;
}
cudaError_t cudaIpcCloseMemHandle(void* pointer) {
  drain();
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().opened.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == memory().opened.end()) return cudaErrorInvalidValue;
  unsigned char* const base = static_cast<unsigned char*>(pointer) - kGuard;
  --openings(base, found->second);
  ::munmap(base, found->second);
  memory().opened.erase(found);
  return cudaSuccess;
}

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
  if (!late(from) || !late(to)) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream, &status);
    if (status != cudaStreamCaptureStatusNone) return cudaErrorStreamCaptureUnsupported;
  }
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
  const bool staged = !late(from) && late(to);
  return error != cudaSuccess || staged ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  return enqueue(stream, [=] { std::memset(to, value, bytes); });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

}  // extern "C"
