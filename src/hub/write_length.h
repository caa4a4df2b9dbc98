// SPDX-License-Identifier: Apache-2.0
// How long writes to a page cache should be. Those of 256 KiB cost two thirds of those of 32 KiB, because a file system
// that can allocates folios of their length; but these come from large free blocks, and where a virtual machine reports
// such blocks as free its host has taken them back: each page is then a fault of the host, and writes of up to 32 KiB,
// whose folios come from small free blocks, cost a quarter. Nothing tells which it is, so both are tried.
#pragma once

#include <array>
#include <cstddef>

namespace sluice {

class WriteLength {
 public:
  static constexpr std::array<size_t, 2> kBytes{size_t{256} << 10, size_t{32} << 10};

  // Bytes of the next writes: of the length that cost less lately, and now and then of the other.
  size_t next() {
    using_ = cost_[1] < cost_[0] ? 1 : 0;
    if (++turns_ % kProbe == 0) using_ = 1 - using_;
    return kBytes[using_];
  }
  // What writes of that length cost, in any unit, per byte.
  void cost(double per_byte) { cost_[using_] += cost_[using_] > 0 ? (per_byte - cost_[using_]) / 4 : per_byte; }

 private:
  static constexpr int kProbe = 32;
  std::array<double, 2> cost_{};
  size_t using_ = 0;
  int turns_ = 0;
};

}  // namespace sluice
