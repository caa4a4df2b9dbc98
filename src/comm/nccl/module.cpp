// SPDX-License-Identifier: Apache-2.0
// Communicators over NCCL, and between peers for what is small. Every call queues on the stream of the backend and
// returns, so that it can be recorded.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <optional>
#include <vector>

#include "comm/nccl.h"
#include "comm/nccl/library.h"
#include "comm/nccl/peer_sums.h"
#include "comm/nccl/watch.h"
#include "kernels/rows.h"

namespace sluice::nccl {
namespace {

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kF16:
      return ncclFloat16;
    default:
      fatal("sums over GPU ranks are of f32, bf16 or f16");
  }
}

// While an error unwinds, others may not come to what this rank waits for, the end of a communicator included: all is
// left to the end of the process.
bool unwinding() { return std::uncaught_exceptions() > 0; }

class Group {
 public:
  Group(const NcclMember& member) : name(member.name) {
    ncclUniqueId id;
    if (member.id.size() != sizeof id) throw Error("an NCCL id of another length: the ranks run different builds");
    std::memcpy(&id, member.id.data(), sizeof id);
    {
      const Watch patience(member.seconds, [this, &member] {
        fatal(
            fmt::format("NCCL: {} have not found each other after {:.0f} s: a rank does not reach another's address; "
                        "name the network with NCCL_SOCKET_IFNAME, look with NCCL_DEBUG=INFO, or wait longer "
                        "(--formation-timeout)",
                        name, member.seconds));
      });
      call(library().comm_init_rank(&comm, member.size, id, member.rank), "ncclCommInitRank");
    }
    watch_.emplace(kLookSeconds, [this, device = device_name()] {
      ncclResult_t error = ncclSuccess;
      if (library().comm_get_async_error(comm, &error) != ncclSuccess || error == ncclInProgress) return;
      if (error != ncclSuccess)
        fatal(fmt::format("NCCL: {} lost a connection: {} ({}) on {}", name, library().get_error_string(error),
                          library().get_last_error(nullptr), device));
    });
  }
  ~Group() {
    watch_.reset();
    if (!unwinding()) library().comm_destroy(comm);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  void call(ncclResult_t result, const char* what, CodePlace where = CodePlace::here()) const {
    if (result != ncclSuccess) fail(result, what, name, where);
  }
  void call(cudaError_t error, const char* what, CodePlace where = CodePlace::here()) const {
    if (error != cudaSuccess) fail(static_cast<int>(error), what, name, where);
  }

  std::string name;
  ncclComm_t comm = nullptr;

 private:
  static constexpr double kLookSeconds = 0.5;
  std::optional<Watch> watch_;  // for errors that no call returns
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const NcclMember& member, cudaStream_t stream, const NcclOptions& options)
      : group_(member), rank_(member.rank), size_(member.size), stream_(stream), fixed_order_(options.fixed_order) {
    if (options.peers == PeerUse::kNever) return;
    const auto gather = [this](void* all, const void* mine, size_t bytes) { gather_host(all, mine, bytes); };
    peers_ = PeerSums::open(rank_, size_, stream_, gather, without_peers_);
    if (peers_ == nullptr && options.peers == PeerUse::kRequire)
      throw Error(fmt::format("--all-reduce peer over {}: {}; choose auto or nccl", member.name, without_peers_));
  }
  ~NcclCommunicator() override {
    if (unwinding()) {
      static_cast<void>(peers_.release());
      return;
    }
    cudaStreamSynchronize(stream_);
    cudaFree(gathered_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(const Tensor& inout) override {
    check(inout.contiguous(), "all_reduce takes a contiguous tensor");
    if (inout.elements() == 0) return;
    if (peers_ != nullptr && (fixed_order_ || peers_->faster(inout.bytes())))
      return group_.call(peers_->sum(inout), "kernels::peer_sum");
    // Two summands commute; more are added in rank order.
    if (fixed_order_ && size_ > 2) return reduce_in_order(inout);
    group_.call(library().all_reduce(inout.data, inout.data, static_cast<size_t>(inout.elements()),
                                     type_of(inout.dtype), ncclSum, group_.comm, stream_),
                "ncclAllReduce");
  }
  void all_gather(const Tensor& out, const Tensor& in) override {
    check(out.dtype == in.dtype && out.elements() == in.elements() * size_ && out.contiguous() && in.contiguous(),
          "all_gather takes contiguous tensors of one dtype, the output `size` times as long as the input");
    if (in.elements() == 0) return;
    group_.call(library().all_gather(in.data, out.data, in.bytes(), ncclInt8, group_.comm, stream_), "ncclAllGather");
  }
  void broadcast(const Tensor& inout, int root) override {
    check(inout.contiguous() && root >= 0 && root < size_,
          "broadcast takes a contiguous tensor and a rank of the group");
    group_.call(library().broadcast(inout.data, inout.data, inout.bytes(), ncclInt8, root, group_.comm, stream_),
                "ncclBroadcast");
  }
  void send(const Tensor& data, int to) override {
    check(data.contiguous() && to != rank_, "send takes a contiguous tensor and another rank of the group");
    group_.call(library().send(data.data, data.bytes(), ncclInt8, to, group_.comm, stream_), "ncclSend");
  }
  void recv(const Tensor& data, int from) override {
    check(data.contiguous() && from != rank_, "recv takes a contiguous tensor and another rank of the group");
    group_.call(library().recv(data.data, data.bytes(), ncclInt8, from, group_.comm, stream_), "ncclRecv");
  }

  NcclTest self_test(double seconds) {
    std::unique_ptr<PeerSums> peers = std::move(peers_);  // NCCL alone, first
    NcclTest out;
    bool right = false;
    const double took = timed_sum(size_t{1} << 20, seconds, right);
    if (!right) throw Error(fmt::format("a sum of 1 MiB over {} by NCCL is wrong", group_.name));
    out.gbps = static_cast<double>(size_t{1} << 20) / took * 1e-9;
    if (peers != nullptr) {
      peers_ = std::move(peers);
      out.peer_us = 1e6 * timed_sum(size_t{8} << 10, seconds, right);
      std::vector<char> verdicts(static_cast<size_t>(size_));
      gather_host(verdicts.data(), &right, 1);
      if (std::ranges::find(verdicts, 0) != verdicts.end()) {
        peers_ = nullptr;
        out.peer_us = 0;
        without_peers_ = "a sum between peers was wrong";
      }
    }
    out.without_peers = without_peers_;
    return out;
  }

 private:
  static constexpr size_t kPiece = size_t{4} << 20;

  // Every rank gathers all summands, a piece at a time, and adds them in the same order. The self-test comes first of
  // all, so that no step takes the memory.
  void reduce_in_order(const Tensor& inout) {
    if (gathered_ == nullptr)
      group_.call(cudaMalloc(reinterpret_cast<void**>(&gathered_), kPiece * static_cast<size_t>(size_)), "cudaMalloc");
    const size_t bytes = inout.bytes();
    for (size_t done = 0; done < bytes; done += kPiece) {
      const size_t now = std::min(kPiece, bytes - done);
      char* const piece = static_cast<char*>(inout.data) + done;
      group_.call(library().all_gather(piece, gathered_, now, ncclInt8, group_.comm, stream_), "ncclAllGather");
      group_.call(cudaMemcpyAsync(piece, gathered_, now, cudaMemcpyDeviceToDevice, stream_), "cudaMemcpyAsync");
      for (int r = 1; r < size_; ++r) {
        kernels::AddParams p{};
        p.inout = piece;
        p.other = gathered_ + static_cast<size_t>(r) * now;
        p.rows = 1;
        p.width = static_cast<int64_t>(now / dtype_bytes(inout.dtype));
        p.stride = p.other_stride = p.width;
        p.type = inout.dtype == DType::kF32    ? kernels::Type::kF32
                 : inout.dtype == DType::kBF16 ? kernels::Type::kBF16
                                               : kernels::Type::kF16;
        group_.call(kernels::add(p, stream_), "kernels::add");
      }
    }
  }

  // all[r * bytes] = rank r's `mine`, both on the host.
  void gather_host(void* all, const void* mine, size_t bytes) {
    char* memory = nullptr;
    const auto own = static_cast<size_t>(rank_), n = static_cast<size_t>(size_);
    group_.call(cudaMalloc(reinterpret_cast<void**>(&memory), n * bytes), "cudaMalloc");
    group_.call(cudaMemcpyAsync(memory + own * bytes, mine, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    group_.call(library().all_gather(memory + own * bytes, memory, bytes, ncclInt8, group_.comm, stream_),
                "ncclAllGather");
    group_.call(cudaMemcpyAsync(all, memory, n * bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    group_.call(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    cudaFree(memory);
  }

  // Seconds of the last of two sums of `bytes`; the first opens connections.
  // Rank r adds (r + 1) * (1 + i % 61) at i.
  double timed_sum(size_t bytes, double seconds, bool& right) {
    std::vector<float> given(bytes / sizeof(float)), got(given.size());
    for (size_t i = 0; i < given.size(); ++i)
      given[i] = static_cast<float>((static_cast<size_t>(rank_) + 1) * (1 + i % 61));
    void* memory = nullptr;
    cudaEvent_t begin, end;
    group_.call(cudaMalloc(&memory, bytes), "cudaMalloc");
    group_.call(cudaEventCreate(&begin), "cudaEventCreate");
    group_.call(cudaEventCreate(&end), "cudaEventCreate");
    const Tensor message(memory, DType::kF32, {static_cast<int64_t>(given.size())});
    const Watch patience(seconds, [&] {
      fatal(fmt::format("a sum over {} has not ended after {:.0f} s: the GPUs do not reach each other; {}", group_.name,
                        seconds,
                        peers_ != nullptr ? "leave their memory out with --all-reduce nccl"
                                          : "name the network with NCCL_SOCKET_IFNAME, look with NCCL_DEBUG=INFO, or "
                                            "try NCCL_P2P_DISABLE=1"));
    });
    for (int pass = 0; pass < 2; ++pass) {
      group_.call(cudaMemcpyAsync(memory, given.data(), bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
      group_.call(cudaEventRecord(begin, stream_), "cudaEventRecord");
      all_reduce(message);
      group_.call(cudaEventRecord(end, stream_), "cudaEventRecord");
      group_.call(cudaEventSynchronize(end), "the self-test");
    }
    float ms = 0;
    group_.call(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    group_.call(cudaMemcpy(got.data(), memory, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    right = true;
    const int sum = size_ * (size_ + 1) / 2;
    for (size_t i = 0; i < got.size(); ++i)
      right = right && got[i] == static_cast<float>(sum) * static_cast<float>(1 + i % 61);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaFree(memory);
    return std::max(static_cast<double>(ms), 1e-3) * 1e-3;
  }

  Group group_;
  int rank_, size_;
  cudaStream_t stream_;
  bool fixed_order_;
  std::unique_ptr<PeerSums> peers_;  // null: NCCL does all, for this reason
  std::string without_peers_;
  char* gathered_ = nullptr;  // [size, kPiece]
};

// Messages have a group and a stream of their own: the device may send tokens of one step while the next step's hidden
// states come in.
class NcclReturn final : public TokenReturn {
 public:
  NcclReturn(const NcclMember& member, cudaStream_t main)
      : group_(member), last_(member.size - 1), main_(main), slots_(static_cast<size_t>(2 * member.size + 2)) {
    group_.call(cudaStreamCreateWithFlags(&own_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (Slot& slot : slots_) {
      group_.call(cudaEventCreateWithFlags(&slot.filled, cudaEventDisableTiming), "cudaEventCreateWithFlags");
      group_.call(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    }
  }
  ~NcclReturn() override {
    if (unwinding()) return;
    cudaStreamSynchronize(own_);
    for (Slot& slot : slots_) {
      cudaEventDestroy(slot.filled);
      cudaEventDestroy(slot.done);
      cudaFree(slot.device);
      cudaFreeHost(slot.host);
    }
    cudaStreamDestroy(own_);
  }

  void send(const Tensor& device) override {
    Slot& slot = next(device.bytes());
    group_.call(cudaStreamWaitEvent(main_, slot.done, 0), "cudaStreamWaitEvent");
    group_.call(cudaMemcpyAsync(slot.device, device.data, device.bytes(), cudaMemcpyDeviceToDevice, main_),
                "cudaMemcpyAsync");
    group_.call(cudaEventRecord(slot.filled, main_), "cudaEventRecord");
    group_.call(cudaStreamWaitEvent(own_, slot.filled, 0), "cudaStreamWaitEvent");
    group_.call(library().send(slot.device, device.bytes(), ncclInt8, 0, group_.comm, own_), "ncclSend");
    group_.call(cudaEventRecord(slot.done, own_), "cudaEventRecord");
  }

  void expect(size_t bytes) override {
    check(turn_ - taken_ < slots_.size(), "a pipeline expects more messages than it has steps in flight");
    Slot& slot = next(bytes);
    group_.call(library().recv(slot.device, bytes, ncclInt8, last_, group_.comm, own_), "ncclRecv");
    group_.call(cudaMemcpyAsync(slot.host, slot.device, bytes, cudaMemcpyDeviceToHost, own_), "cudaMemcpyAsync");
    group_.call(cudaEventRecord(slot.done, own_), "cudaEventRecord");
  }

  void receive(void* host, size_t bytes) override {
    check(taken_ < turn_, "no message is expected");
    const Slot& slot = slots_[taken_++ % slots_.size()];
    group_.call(cudaEventSynchronize(slot.done), "cudaEventSynchronize");
    std::memcpy(host, slot.host, bytes);
  }

 private:
  struct Slot {
    void *device = nullptr, *host = nullptr;
    size_t room = 0;
    cudaEvent_t filled = nullptr, done = nullptr;
  };
  Slot& next(size_t bytes) {
    Slot& slot = slots_[turn_++ % slots_.size()];
    if (slot.room >= bytes) return slot;
    group_.call(cudaEventSynchronize(slot.done), "cudaEventSynchronize");
    cudaFree(slot.device);
    cudaFreeHost(slot.host);
    slot.room = std::max<size_t>(4096, 2 * bytes);
    group_.call(cudaMalloc(&slot.device, slot.room), "cudaMalloc");
    group_.call(cudaHostAlloc(&slot.host, slot.room, cudaHostAllocDefault), "cudaHostAlloc");
    return slot;
  }

  Group group_;
  int last_;
  cudaStream_t main_, own_ = nullptr;
  std::vector<Slot> slots_;  // more than a pipeline has steps in flight
  uint64_t turn_ = 0, taken_ = 0;
};

class Module final : public NcclModule {
 public:
  std::string library() const override {
    int v = 0;
    nccl::library().get_version(&v);
    return fmt::format("NCCL {}.{}.{}", v / 10000, v % 10000 / 100, v % 100);
  }
  std::string unique_id() const override {
    ncclUniqueId id;
    if (const ncclResult_t result = nccl::library().get_unique_id(&id); result != ncclSuccess)
      throw Error(fmt::format("NCCL makes no id: {} ({}); name the network with NCCL_SOCKET_IFNAME",
                              nccl::library().get_error_string(result), nccl::library().get_last_error(nullptr)));
    return std::string(reinterpret_cast<const char*>(&id), sizeof id);
  }
  std::unique_ptr<Communicator> make(const NcclMember& member, void* stream,
                                     const NcclOptions& options) const override {
    if (member.size == 1) return make_solo_device(stream);
    return std::make_unique<NcclCommunicator>(member, static_cast<cudaStream_t>(stream), options);
  }
  std::unique_ptr<TokenReturn> make_return(const NcclMember& member, void* stream) const override {
    return std::make_unique<NcclReturn>(member, static_cast<cudaStream_t>(stream));
  }
  NcclTest self_test(Communicator& group, double seconds) const override {
    return group.size() == 1 ? NcclTest{} : static_cast<NcclCommunicator&>(group).self_test(seconds);
  }

 private:
  // A group of one: gathers are copies, the rest is nothing.
  static std::unique_ptr<Communicator> make_solo_device(void* stream) {
    class Solo final : public Communicator {
     public:
      explicit Solo(void* on) : stream_(static_cast<cudaStream_t>(on)) {}
      int rank() const override { return 0; }
      int size() const override { return 1; }
      void all_reduce(const Tensor&) override {}
      void all_gather(const Tensor& out, const Tensor& in) override {
        if (out.data != in.data)
          check(cudaMemcpyAsync(out.data, in.data, in.bytes(), cudaMemcpyDeviceToDevice, stream_) == cudaSuccess,
                "a copy on the device failed");
      }
      void broadcast(const Tensor&, int) override {}
      void send(const Tensor&, int) override { fatal("send in a group of one"); }
      void recv(const Tensor&, int) override { fatal("recv in a group of one"); }

     private:
      cudaStream_t stream_;
    };
    return std::make_unique<Solo>(stream);
  }
};

}  // namespace
}  // namespace sluice::nccl

extern "C" __attribute__((visibility("default"))) const sluice::NcclModule* sluice_nccl_module(uint32_t version) {
  static const sluice::nccl::Module module;
  return version == sluice::kNcclModuleVersion ? &module : nullptr;
}
