// SPDX-License-Identifier: Apache-2.0
#include "watch.h"

#include <cstdio>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "block.h"
#include "cuda_runtime.h"
#include "runtime.h"

namespace sluice::emulation {
namespace {

constexpr size_t kMostFindings = 16;

// When a thread touched a byte: which barrier of the block and which of its warp it had passed.
struct Touch {
  int thread = -1;
  uint32_t barrier = 0, warp_barrier = 0;
};
struct Byte {
  uint64_t block = ~0ull;               // of the touches below
  Touch write, reads[2];                // the last two readers that differ
  uint64_t written_by = ~0ull;          // last block that wrote it, in this launch
  bool atomic = false, fenced = false;  // the last write
};

struct Watch {
  bool on = false;
  int quiet = 0;
  uint64_t block = 0;  // of the launch
  uint32_t barrier = 0, warp_barriers[32] = {};
  bool block_fenced = false;
  const unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  std::vector<bool> shared_written;
  std::unordered_map<uintptr_t, Byte> bytes;
  std::vector<uintptr_t> own_writes;  // of the running block outside shared memory, to be marked by its fence
  std::mutex mutex;                   // of findings
  std::vector<std::string> findings;
};
Watch watch;

void report(const char* what, const void* address, size_t bytes, int other) {
  const std::lock_guard lock(watch.mutex);
  if (watch.findings.size() >= kMostFindings) return;
  char text[256];
  std::snprintf(text, sizeof text, "%s: %zu bytes at %p, thread %d of block (%u, %u, %u), other thread %d", what, bytes,
                address, thread_index(), blockIdx.x, blockIdx.y, blockIdx.z, other);
  watch.findings.emplace_back(text);
}

// Whether what `before` did is ordered before what the running thread does now.
bool ordered(const Touch& before, int now) {
  if (before.thread < 0 || before.thread == now || before.barrier != watch.barrier) return true;
  return before.thread / kWarp == now / kWarp && before.warp_barrier != watch.warp_barriers[now / kWarp];
}

bool touch(uintptr_t address, bool shared, bool write, bool atomic) {
  const int now = thread_index();
  Byte& byte = watch.bytes[address];
  if (!shared && byte.written_by != ~0ull && byte.written_by != watch.block && !atomic && !byte.atomic &&
      !(byte.fenced && watch.block_fenced)) {
    report(write ? "two blocks write" : "a block reads what another writes", reinterpret_cast<void*>(address), 1, -1);
    return false;
  }
  if (byte.block != watch.block) {
    byte.block = watch.block;
    byte.write = byte.reads[0] = byte.reads[1] = {};
  }
  const Touch own{now, watch.barrier, watch.warp_barriers[now / kWarp]};
  if (!(atomic && byte.atomic) && !ordered(byte.write, now)) {
    report(write ? "two threads write" : "a thread reads what another writes", reinterpret_cast<void*>(address), 1,
           byte.write.thread);
    return false;
  }
  if (!write) {
    if (byte.reads[0].thread != now) byte.reads[1] = byte.reads[0];
    byte.reads[0] = own;
    return true;
  }
  for (const Touch& read : byte.reads) {
    if (atomic || ordered(read, now)) continue;
    report("a thread writes what another reads", reinterpret_cast<void*>(address), 1, read.thread);
    return false;
  }
  byte.write = own;
  byte.atomic = atomic;
  if (!shared) {
    byte.written_by = watch.block;
    byte.fenced = false;
    watch.own_writes.push_back(address);
  }
  return true;
}

void access(const void* address, size_t bytes, bool write, bool atomic) {
  const auto* at = static_cast<const unsigned char*>(address);
  const bool shared = at >= watch.shared && at < watch.shared + watch.shared_bytes;
  if (shared) {
    const auto first = static_cast<size_t>(at - watch.shared);
    if (first + bytes > watch.shared_bytes) return report("beside shared memory", address, bytes, -1);
    for (size_t i = first; i < first + bytes; ++i) {
      if (write) {
        watch.shared_written[i] = true;
      } else if (!watch.shared_written[i]) {
        watch.shared_written[i] = true;  // said once
        return report("shared memory is read before it is written", address, bytes, -1);
      }
    }
  } else {
    const Allocation* a = find_allocation(address);
    if (a == nullptr) return;  // a thread's own stack, parameters, tables of the program
    if (at < a->begin || at + bytes > a->begin + a->bytes) return report("beside an allocation", address, bytes, -1);
  }
  for (size_t i = 0; i < bytes; ++i) {
    if (!touch(reinterpret_cast<uintptr_t>(at + i), shared, write, atomic)) return;
  }
}

}  // namespace

void set_watch(bool on) {
  watch.on = on;
  watch.bytes.clear();
}

std::vector<std::string> take_findings() {
  const std::lock_guard lock(watch.mutex);
  return std::move(watch.findings);
}

void watch_block(const unsigned char* shared, size_t bytes) {
  if (!watch.on) return;
  ++watch.block;
  watch.barrier = 0;
  std::memset(watch.warp_barriers, 0, sizeof watch.warp_barriers);
  watch.block_fenced = false;
  watch.own_writes.clear();
  watch.shared = shared;
  watch.shared_bytes = bytes;
  watch.shared_written.assign(bytes, false);
}
void watch_barrier() { ++watch.barrier; }
void watch_warp(int warp, unsigned mask) {
  if (mask == 0xffffffffu) ++watch.warp_barriers[warp];
}
void watch_fence() {
  if (!watch.on) return;
  watch.block_fenced = true;
  for (const uintptr_t address : watch.own_writes) watch.bytes[address].fenced = true;
  watch.own_writes.clear();
}
void watch_end() { watch.bytes.clear(); }
void watch_atomic(const void* address, size_t bytes) {
  if (watch.on && watch.quiet == 0) access(address, bytes, true, true);
}
void watch_access(const void* address, size_t bytes, bool write) {
  if (watch.on && watch.quiet == 0) access(address, bytes, write, false);
}

Unwatched::Unwatched() { ++watch.quiet; }
Unwatched::~Unwatched() { --watch.quiet; }

}  // namespace sluice::emulation

// What -fsanitize=thread calls before each access of the code it instruments.
extern "C" {
#define SLUICE_ACCESS(n)                                                                   \
  void __tsan_read##n(void* p) { sluice::emulation::watch_access(p, n, false); }           \
  void __tsan_write##n(void* p) { sluice::emulation::watch_access(p, n, true); }           \
  void __tsan_unaligned_read##n(void* p) { sluice::emulation::watch_access(p, n, false); } \
  void __tsan_unaligned_write##n(void* p) { sluice::emulation::watch_access(p, n, true); } \
  void __tsan_volatile_read##n(void* p) { sluice::emulation::watch_access(p, n, false); }  \
  void __tsan_volatile_write##n(void* p) { sluice::emulation::watch_access(p, n, true); }
SLUICE_ACCESS(1)
SLUICE_ACCESS(2)
SLUICE_ACCESS(4)
SLUICE_ACCESS(8)
SLUICE_ACCESS(16)
#undef SLUICE_ACCESS
void __tsan_read_range(void* p, unsigned long n) { sluice::emulation::watch_access(p, n, false); }
void __tsan_write_range(void* p, unsigned long n) { sluice::emulation::watch_access(p, n, true); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
