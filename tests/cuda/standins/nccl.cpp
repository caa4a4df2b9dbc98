// SPDX-License-Identifier: Apache-2.0
// The calls of NCCL that the communicators make, among processes of one machine over shared memory. A call is queued on
// its stream; a step of it that waits for another rank lets other streams go on, as a GPU would.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <fcntl.h>
#include <nccl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "runtime.h"

namespace {

constexpr int kRanks = 8;
constexpr size_t kSlot = size_t{4} << 20;  // of one message; untouched pages cost nothing

struct Channel {
  std::atomic<uint64_t> sent, received;
};
struct Shared {
  std::atomic<int> attached;
  std::atomic<uint64_t> published[kRanks];  // collectives that a rank has put its part of
  Channel channels[kRanks][kRanks];         // [from][to]
};
constexpr size_t kHead = (sizeof(Shared) + 4095) / 4096 * 4096;
// Two parts per rank and two messages per pair: who publishes the second next one has seen all parts of this one read.
constexpr size_t kBytes = kHead + (kRanks + kRanks * kRanks) * 2 * kSlot;

[[noreturn]] void refuse(const char* what) {
  std::fprintf(stderr, "the stand-in for NCCL does not do this: %s\n", what);
  std::abort();
}

size_t bytes_of(ncclDataType_t type, size_t n) {
  switch (type) {
    case ncclInt8:
      return n;
    case ncclFloat16:
    case ncclBfloat16:
      return 2 * n;
    case ncclFloat32:
      return 4 * n;
    default:
      refuse("an element type");
  }
}

float load(ncclDataType_t type, const char* data, size_t i) {
  if (type == ncclFloat32) return reinterpret_cast<const float*>(data)[i];
  if (type == ncclBfloat16) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(data)[i]);
  return __half2float(reinterpret_cast<const __half*>(data)[i]);
}
void store(ncclDataType_t type, void* data, size_t i, float v) {
  if (type == ncclFloat32) {
    static_cast<float*>(data)[i] = v;
  } else if (type == ncclBfloat16) {
    static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(v);
  } else {
    static_cast<__half*>(data)[i] = __float2half_rn(v);
  }
}

}  // namespace

struct ncclComm {
  int rank = 0, size = 0;
  char* base = nullptr;
  uint64_t turn = 0;  // collectives begun, on the executor's thread

  Shared& shared() { return *reinterpret_cast<Shared*>(base); }
  char* part(int r, uint64_t turn_of) { return base + kHead + (static_cast<size_t>(r) * 2 + turn_of % 2) * kSlot; }
  char* message(int from, int to, uint64_t n) {
    return base + kHead + (static_cast<size_t>(kRanks + from * kRanks + to) * 2 + n % 2) * kSlot;
  }
  bool all_published() {
    for (int r = 0; r < size; ++r)
      if (shared().published[r].load(std::memory_order_acquire) < turn) return false;
    return true;
  }

  // Publishes `bytes` of this rank, then runs `finish` once everybody's part is there.
  template <class Finish>
  ncclResult_t collective(const void* data, size_t bytes, cudaStream_t stream, Finish finish) {
    if (bytes > kSlot) refuse("a message above 4 MiB");
    sluice::emulation::enqueue(stream, [this, data, bytes] {
      ++turn;
      std::memcpy(part(rank, turn), data, bytes);
      shared().published[rank].store(turn, std::memory_order_release);
    });
    sluice::emulation::enqueue(stream, finish, [this] { return all_published(); });
    return ncclSuccess;
  }
};

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = 22800;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t) { return "the stand-in failed"; }
const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* out) {
  std::memset(out, 0, sizeof *out);
  std::random_device random;
  std::snprintf(out->internal, sizeof out->internal, "/sluice-standin-%08x%08x", random(), random());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* out, int size, ncclUniqueId id, int rank) {
  if (size > kRanks || rank < 0 || rank >= size || id.internal[0] != '/') return ncclInvalidArgument;
  const int file = ::shm_open(id.internal, O_CREAT | O_RDWR, 0600);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(kBytes)) != 0) return ncclSystemError;
  void* base = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  if (base == MAP_FAILED) return ncclSystemError;
  auto* comm = new ncclComm;
  comm->rank = rank;
  comm->size = size;
  comm->base = static_cast<char*>(base);
  if (++comm->shared().attached == size) ::shm_unlink(id.internal);
  for (int i = 0; comm->shared().attached < size; ++i) {
    if (i > 120000) return ncclSystemError;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  *out = comm;
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  sluice::emulation::drain();
  ::munmap(comm->base, kBytes);
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* out) {
  *out = ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  if (op != ncclSum || type == ncclInt8) refuse("another sum");
  return comm->collective(in, bytes_of(type, n), stream, [=] {
    for (size_t i = 0; i < n; ++i) {
      float sum = 0;
      for (int r = 0; r < comm->size; ++r) sum += load(type, comm->part(r, comm->turn), i);
      store(type, out, i, sum);
    }
  });
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t n, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  const size_t bytes = bytes_of(type, n);
  return comm->collective(in, bytes, stream, [=] {
    for (int r = 0; r < comm->size; ++r)
      std::memcpy(static_cast<char*>(out) + static_cast<size_t>(r) * bytes, comm->part(r, comm->turn), bytes);
  });
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  const size_t bytes = bytes_of(type, n);
  return comm->collective(in, bytes, stream, [=] { std::memcpy(out, comm->part(root, comm->turn), bytes); });
}

ncclResult_t ncclSend(const void* data, size_t n, ncclDataType_t type, int to, ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = bytes_of(type, n);
  if (bytes > kSlot) refuse("a message above 4 MiB");
  Channel& channel = comm->shared().channels[comm->rank][to];
  sluice::emulation::enqueue(
      stream,
      [=, &channel] {
        std::memcpy(comm->message(comm->rank, to, channel.sent), data, bytes);
        channel.sent.fetch_add(1, std::memory_order_release);
      },
      [&channel] { return channel.sent - channel.received.load(std::memory_order_acquire) < 2; });
  return ncclSuccess;
}

ncclResult_t ncclRecv(void* data, size_t n, ncclDataType_t type, int from, ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = bytes_of(type, n);
  Channel& channel = comm->shared().channels[from][comm->rank];
  sluice::emulation::enqueue(
      stream,
      [=, &channel] {
        std::memcpy(data, comm->message(from, comm->rank, channel.received), bytes);
        channel.received.fetch_add(1, std::memory_order_release);
      },
      [&channel] { return channel.sent.load(std::memory_order_acquire) > channel.received; });
  return ncclSuccess;
}

}  // extern "C"
