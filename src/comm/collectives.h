// SPDX-License-Identifier: Apache-2.0
// Collectives over host memory made of point-to-point messages, the same for every transport: each element is summed in
// rank order whatever the length of the message. A transport has
//   bool begin_send(const void* data, size_t bytes, int to);   ranks of the group
//   bool begin_recv(void* data, size_t bytes, int from);
//   bool wait();                                               completes all that have begun
// and returns false when it has failed, as do the collectives.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "comm/sum.h"

namespace sluice {

template <class Transport>
class Collectives {
 public:
  Collectives(Transport transport, int rank, int size) : transport_(transport), rank_(rank), size_(size) {}

  bool all_reduce(float* data, size_t n) {
    const auto size = static_cast<size_t>(size_), rank = static_cast<size_t>(rank_);
    if (n == 0 || size_ == 1) return true;
    const bool one_round = n * sizeof(float) * (size - 1) <= kOneRound;
    const auto begin = [&](size_t r) { return one_round ? 0 : n * r / size; };
    const auto length = [&](size_t r) { return one_round ? n : n * (r + 1) / size - n * r / size; };
    const size_t mine = length(rank);
    if (scratch_.size() < mine * (size - 1)) scratch_.resize(mine * (size - 1));
    const auto theirs = [&](size_t r) { return scratch_.data() + (r < rank ? r : r - 1) * mine; };
    const bool ok = exchange(
        [&](size_t r) {
          return Span{data + begin(r), length(r) * sizeof(float)};
        },
        [&](size_t r) {
          return Span{theirs(r), mine * sizeof(float)};
        });
    if (!ok) return false;
    parts_.clear();
    for (size_t r = 0; r < size; ++r) parts_.push_back(r == rank ? data + begin(rank) : theirs(r));
    sum_in_rank_order(data + begin(rank), parts_, mine);
    if (one_round) return true;
    return exchange(
        [&](size_t) {
          return Span{data + begin(rank), mine * sizeof(float)};
        },
        [&](size_t r) {
          return Span{data + begin(r), length(r) * sizeof(float)};
        });
  }

  bool all_gather(void* out, const void* in, size_t bytes) {
    char* const base = static_cast<char*>(out);
    const auto at = [&](size_t r) { return Span{base + r * bytes, bytes}; };
    const auto rank = static_cast<size_t>(rank_);
    if (bytes > 0 && at(rank).data != in) std::memmove(at(rank).data, in, bytes);
    return exchange([&](size_t) { return at(rank); }, at);
  }

  // Down a binomial tree rooted at `root`.
  bool broadcast(void* data, size_t bytes, int root) {
    const int me = (rank_ - root + size_) % size_;
    const auto real = [&](int relative) { return (relative + root) % size_; };
    int bit = 1;
    for (; bit < size_ && !(me & bit); bit <<= 1) {
    }
    if (me != 0 && !(transport_.begin_recv(data, bytes, real(me - bit)) && transport_.wait())) return false;
    for (bit >>= 1; bit > 0; bit >>= 1) {
      if (me + bit < size_ && !transport_.begin_send(data, bytes, real(me + bit))) return false;
    }
    return transport_.wait();
  }

 private:
  // Up to so many bytes sent per rank an all-reduce takes one round; beyond, two rounds of slices.
  static constexpr size_t kOneRound = 128 << 10;

  struct Span {
    void* data;
    size_t bytes;
  };

  // Everyone sends out(r) to r and receives in(r) from r.
  template <class Out, class In>
  bool exchange(Out out, In in) {
    for (int i = 1; i < size_; ++i) {
      const int from = (rank_ + size_ - i) % size_;
      const Span to = in(static_cast<size_t>(from));
      if (!transport_.begin_recv(to.data, to.bytes, from)) return false;
    }
    for (int i = 1; i < size_; ++i) {
      const int to = (rank_ + i) % size_;
      const Span from = out(static_cast<size_t>(to));
      if (!transport_.begin_send(from.data, from.bytes, to)) return false;
    }
    return transport_.wait();
  }

  Transport transport_;
  const int rank_, size_;
  std::vector<float> scratch_;
  std::vector<const float*> parts_;
};

}  // namespace sluice
