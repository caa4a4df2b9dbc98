// SPDX-License-Identifier: Apache-2.0
// The checks that every communicator over host memory makes of its tensors; the transport gets bytes.
#pragma once

#include "base/error.h"
#include "comm/communicator.h"

namespace sluice {

class HostCommunicator : public Communicator {
 public:
  HostCommunicator(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const final { return rank_; }
  int size() const final { return size_; }

  void all_reduce(const Tensor& inout) final {
    check(inout.dtype == DType::kF32 && inout.contiguous(), "all_reduce takes a contiguous float32 tensor");
    sum(inout.as<float>(), static_cast<size_t>(inout.elements()));
  }
  void all_gather(const Tensor& out, const Tensor& in) final {
    check(out.dtype == in.dtype && out.elements() == in.elements() * size_ && out.contiguous() && in.contiguous(),
          "all_gather takes contiguous tensors of one dtype, the output `size` times as long as the input");
    gather(out.data, in.data, in.bytes());
  }
  void broadcast(const Tensor& inout, int root) final {
    check(inout.contiguous() && root >= 0 && root < size_,
          "broadcast takes a contiguous tensor and a rank of the group");
    spread(inout.data, inout.bytes(), root);
  }
  void send(const Tensor& data, int to) final {
    check(data.contiguous() && is_other(to), "send takes a contiguous tensor and another rank of the group");
    give(data.data, data.bytes(), to);
  }
  void recv(const Tensor& data, int from) final {
    check(data.contiguous() && is_other(from), "recv takes a contiguous tensor and another rank of the group");
    take(data.data, data.bytes(), from);
  }

 private:
  virtual void sum(float* data, size_t n) = 0;
  virtual void gather(void* out, const void* in, size_t bytes) = 0;  // `bytes` of each rank
  virtual void spread(void* data, size_t bytes, int root) = 0;
  virtual void give(const void* data, size_t bytes, int to) = 0;
  virtual void take(void* data, size_t bytes, int from) = 0;

  bool is_other(int r) const { return r >= 0 && r < size_ && r != rank_; }
  const int rank_, size_;
};

}  // namespace sluice
