// SPDX-License-Identifier: Apache-2.0
// The calls of NCCL that the communicators make, among processes of one machine over shared memory. A call is queued on
// its stream; a step of it that waits for another rank lets other streams go on, as a GPU would. What NCCL leaves
// undefined or waits for without end is named and ends the process: ranks that call with other sizes, a call that one
// rank records and another does not, host memory, a communicator that goes before the graphs which hold its calls.
// A send ends when it is received, ncclCommDestroy when all ranks call it. SLUICE_STANDIN_NCCL=deaf: no communicator
// comes up. stuck:N, broken:N: from its call N on a communicator waits for ever, with or without an error to be asked
// for.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <fcntl.h>
#include <nccl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "runtime.h"

namespace {

constexpr int kRanks = 8;
constexpr size_t kSlot = size_t{4} << 20;  // of one message; untouched pages cost nothing

// What the ranks of a call must agree about.
struct Call {
  char name[12];
  uint64_t bytes;
  bool recorded;
};
struct Channel {
  std::atomic<uint64_t> sent, received;
  Call calls[2];  // by number, of the sender
};
struct Shared {
  std::atomic<int> attached;
  std::atomic<uint64_t> published[kRanks];  // collectives that a rank has put its part of
  Call calls[kRanks][2];                    // by number
  Channel channels[kRanks][kRanks];         // [from][to]
};
constexpr size_t kHead = (sizeof(Shared) + 4095) / 4096 * 4096;
// Two parts per rank and two messages per pair: who publishes the second next one has seen all parts of this one read.
constexpr size_t kBytes = kHead + (kRanks + kRanks * kRanks) * 2 * kSlot;

[[noreturn]] void refuse(const char* what) {
  std::fprintf(stderr, "the stand-in for NCCL does not do this: %s\n", what);
  std::abort();
}

void agree(const Call& mine, const Call& other) {
  if (std::memcmp(mine.name, other.name, sizeof mine.name) != 0) refuse("ranks make different calls");
  if (mine.bytes != other.bytes) refuse("ranks give different sizes");
  if (mine.recorded != other.recorded) refuse("one rank records a call that another makes at once");
}

const char* fault() {
  const char* text = std::getenv("SLUICE_STANDIN_NCCL");
  return text != nullptr ? text : "";
}
// The call from which on `kind` of fault is there.
uint64_t fault_from(const char* kind) {
  const size_t n = std::strlen(kind);
  return std::strncmp(fault(), kind, n) == 0 ? std::strtoull(fault() + n, nullptr, 10) : UINT64_MAX;
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
  uint64_t made = 0;  // calls
  uint64_t stuck_from = std::min(fault_from("stuck:"), fault_from("broken:"));
  std::atomic<bool> broken{false};
  std::shared_ptr<int> graphs = std::make_shared<int>(0);  // also held by what graphs keep of it

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

  // The call as others must make it too; `stays` keeps it known that a graph holds it.
  Call begin(const char* name, size_t bytes, cudaStream_t stream, std::shared_ptr<int>& stays) {
    if (bytes > kSlot) refuse("a message above 4 MiB");
    Call call{};
    std::snprintf(call.name, sizeof call.name, "%s", name);
    call.bytes = bytes;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream, &status);
    call.recorded = status == cudaStreamCaptureStatusActive;
    if (call.recorded) stays = graphs;
    if (made++ >= stuck_from) {
      broken = fault_from("broken:") != UINT64_MAX;
      sluice::emulation::enqueue(
          stream, [] {}, [] { return false; });
    }
    return call;
  }
  static void check(const void* data, size_t bytes) {
    const sluice::emulation::Allocation* a = sluice::emulation::find_allocation(data);
    const auto* at = static_cast<const unsigned char*>(data);
    if (a == nullptr || !a->device || at < a->begin || at + bytes > a->begin + a->bytes)
      refuse("memory that is not of the device");
  }

  // Publishes `bytes` of this rank, then runs `finish` once everybody's part is there.
  template <class Finish>
  ncclResult_t collective(const char* name, const void* data, size_t bytes, cudaStream_t stream, Finish finish) {
    check(data, bytes);
    std::shared_ptr<int> stays;
    const Call call = begin(name, bytes, stream, stays);
    sluice::emulation::enqueue(stream, [this, data, bytes, call, stays] {
      ++turn;
      std::memcpy(part(rank, turn), data, bytes);
      shared().calls[rank][turn % 2] = call;
      shared().published[rank].store(turn, std::memory_order_release);
    });
    const auto checked = [this, call, finish] {
      for (int r = 0; r < size; ++r) agree(call, shared().calls[r][turn % 2]);
      finish();
    };
    sluice::emulation::enqueue(stream, checked, [this] { return all_published(); });
    return ncclSuccess;
  }
};

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = 22800;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error" : "the stand-in failed";
}
const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* out) {
  std::memset(out, 0, sizeof *out);
  std::random_device random;
  std::snprintf(out->internal, sizeof out->internal, "/sluice-standin-%08x%08x", random(), random());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* out, int size, ncclUniqueId id, int rank) {
  while (std::strcmp(fault(), "deaf") == 0) std::this_thread::sleep_for(std::chrono::seconds(1));
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
  if (comm->graphs.use_count() > 1) refuse("ncclCommDestroy waits until the graphs that hold the calls are destroyed");
  for (--comm->shared().attached; comm->shared().attached > 0;)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::munmap(comm->base, kBytes);
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* out) {
  *out = comm->broken ? ncclRemoteError : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  if (op != ncclSum || type == ncclInt8) refuse("another sum");
  comm->check(out, bytes_of(type, n));
  return comm->collective("all_reduce", in, bytes_of(type, n), stream, [=] {
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
  comm->check(out, bytes * static_cast<size_t>(comm->size));
  return comm->collective("all_gather", in, bytes, stream, [=] {
    for (int r = 0; r < comm->size; ++r)
      std::memcpy(static_cast<char*>(out) + static_cast<size_t>(r) * bytes, comm->part(r, comm->turn), bytes);
  });
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  const size_t bytes = bytes_of(type, n);
  comm->check(out, bytes);
  return comm->collective("broadcast", in, bytes, stream,
                          [=] { std::memcpy(out, comm->part(root, comm->turn), bytes); });
}

ncclResult_t ncclSend(const void* data, size_t n, ncclDataType_t type, int to, ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = bytes_of(type, n);
  comm->check(data, bytes);
  std::shared_ptr<int> stays;
  const Call call = comm->begin("message", bytes, stream, stays);
  Channel& channel = comm->shared().channels[comm->rank][to];
  sluice::emulation::enqueue(
      stream,
      [=, &channel] {
        std::memcpy(comm->message(comm->rank, to, channel.sent), data, bytes);
        channel.calls[channel.sent % 2] = call;
        channel.sent.fetch_add(1, std::memory_order_release);
      },
      [&channel] { return channel.sent - channel.received.load(std::memory_order_acquire) < 2; });
  sluice::emulation::enqueue(
      stream, [stays] {}, [&channel] { return channel.received.load(std::memory_order_acquire) == channel.sent; });
  return ncclSuccess;
}

ncclResult_t ncclRecv(void* data, size_t n, ncclDataType_t type, int from, ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = bytes_of(type, n);
  comm->check(data, bytes);
  std::shared_ptr<int> stays;
  const Call call = comm->begin("message", bytes, stream, stays);
  Channel& channel = comm->shared().channels[from][comm->rank];
  sluice::emulation::enqueue(
      stream,
      [=, &channel] {
        agree(call, channel.calls[channel.received % 2]);
        std::memcpy(data, comm->message(from, comm->rank, channel.received), bytes);
        channel.received.fetch_add(1, std::memory_order_release);
      },
      [&channel, stays] { return channel.sent.load(std::memory_order_acquire) > channel.received; });
  return ncclSuccess;
}

}  // extern "C"
