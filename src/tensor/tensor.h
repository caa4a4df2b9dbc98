// SPDX-License-Identifier: Apache-2.0
// Tensor is a view (no ownership, no arithmetic); Buffer owns memory of some backend.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "tensor/dtype.h"

namespace sluice {

// A view of contiguous rows: up to four dimensions, row-major. Where the first dimension is a slice of something wider,
// `row_stride` (elements between consecutive indices of dimension 0) exceeds the product of the others.
struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  int64_t row_stride = 0;

  Tensor() = default;
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape);

  int64_t dim(int i) const { return shape[static_cast<size_t>(i)]; }
  int64_t elements() const;
  int64_t row_elements() const;  // product of all dimensions but the first
  size_t bytes() const { return static_cast<size_t>(elements()) * dtype_bytes(dtype); }
  bool contiguous() const { return row_stride == row_elements(); }
  explicit operator bool() const { return data != nullptr; }

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  void* row(int64_t i) const {
    return static_cast<char*>(data) + static_cast<size_t>(i * row_stride) * dtype_bytes(dtype);
  }

  Tensor rows(int64_t begin, int64_t count) const;              // [begin, begin+count) of dimension 0
  Tensor columns(int64_t begin, int64_t count) const;           // of a rank-2 tensor, keeping the row stride
  Tensor reshaped(std::initializer_list<int64_t> shape) const;  // contiguous only, same number of elements
};

std::string to_string(const Tensor& tensor);  // "bfloat16[3, 128]"

// Owned memory, aligned to at least 64 bytes. Released with the function that the allocating backend gave.
class Buffer {
 public:
  using Release = void (*)(void* data, size_t bytes);
  Buffer() = default;
  Buffer(void* data, size_t bytes, Release release) : data_(data), bytes_(bytes), release_(release) {}
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  static Buffer host(size_t bytes);  // plain host memory, zeroed
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Tensor view(DType dtype, std::initializer_list<int64_t> shape, size_t byte_offset = 0) const;  // bounds are checked

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Release release_ = nullptr;
};

}  // namespace sluice
