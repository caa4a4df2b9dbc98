// SPDX-License-Identifier: Apache-2.0
// Scratch memory of one forward pass, handed out in stack order from one buffer. An arena without a buffer only
// measures: a dry run of the same layout sizes it.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "base/error.h"
#include "tensor/tensor.h"

namespace sluice {

class Arena {
 public:
  Arena() = default;  // measures
  explicit Arena(Buffer buffer) : buffer_(std::move(buffer)) {}

  // The tensor's data is null while measuring. Valid until release() to a mark before it.
  Tensor take(DType dtype, std::initializer_list<int64_t> shape) {
    Tensor out(nullptr, dtype, shape);
    const size_t at = used_;
    used_ += (out.bytes() + kAlign - 1) / kAlign * kAlign;
    peak_ = std::max(peak_, used_);
    if (buffer_.data() != nullptr) {
      check(used_ <= buffer_.bytes(), "a step is larger than the limits that its arena was sized for");
      out.data = static_cast<char*>(buffer_.data()) + at;
    }
    return out;
  }
  size_t mark() const { return used_; }
  void release(size_t mark) { used_ = mark; }
  size_t peak() const { return peak_; }  // bytes

 private:
  static constexpr size_t kAlign = 256;
  Buffer buffer_;
  size_t used_ = 0, peak_ = 0;
};

}  // namespace sluice
