// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "base/error.h"

namespace sluice {

Tensor::Tensor(void* data, DType dtype, std::initializer_list<int64_t> dims) : data(data), dtype(dtype) {
  check(dims.size() >= 1 && dims.size() <= kMaxRank, "a tensor has one to four dimensions");
  for (const int64_t d : dims) shape[static_cast<size_t>(rank++)] = d;
  row_stride = row_elements();
}

int64_t Tensor::row_elements() const {
  int64_t n = 1;
  for (int i = 1; i < rank; ++i) n *= shape[static_cast<size_t>(i)];
  return n;
}

int64_t Tensor::elements() const { return rank == 0 ? 0 : shape[0] * row_elements(); }

Tensor Tensor::rows(int64_t begin, int64_t count) const {
  check(begin >= 0 && count >= 0 && begin + count <= shape[0], "row slice out of range");
  Tensor out = *this;
  out.data = row(begin);
  out.shape[0] = count;
  return out;
}

Tensor Tensor::columns(int64_t begin, int64_t count) const {
  check(rank == 2 && begin >= 0 && count >= 0 && begin + count <= shape[1], "column slice out of range");
  Tensor out = *this;
  out.data = static_cast<char*>(data) + static_cast<size_t>(begin) * dtype_bytes(dtype);
  out.shape[1] = count;
  return out;
}

Tensor Tensor::reshaped(std::initializer_list<int64_t> dims) const {
  Tensor out(data, dtype, dims);
  check(contiguous() && out.elements() == elements(), "reshape needs a contiguous tensor of the same size");
  return out;
}

std::string to_string(const Tensor& tensor) {
  std::string dims;
  for (int i = 0; i < tensor.rank; ++i) dims += fmt::format("{}{}", i == 0 ? "" : ", ", tensor.dim(i));
  return fmt::format("{}[{}]", dtype_name(tensor.dtype), dims);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      release_(std::exchange(other.release_, nullptr)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    if (release_ != nullptr) release_(data_, bytes_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    release_ = std::exchange(other.release_, nullptr);
  }
  return *this;
}

Buffer::~Buffer() {
  if (release_ != nullptr) release_(data_, bytes_);
}

Buffer Buffer::host(size_t bytes) {
  const size_t rounded = (bytes + 63) / 64 * 64;
  void* data = std::aligned_alloc(64, rounded == 0 ? 64 : rounded);
  if (data == nullptr) throw std::bad_alloc();
  std::memset(data, 0, rounded == 0 ? 64 : rounded);
  return Buffer(data, bytes, [](void* p, size_t) { std::free(p); });
}

Tensor Buffer::view(DType dtype, std::initializer_list<int64_t> shape, size_t byte_offset) const {
  Tensor out(static_cast<char*>(data_) + byte_offset, dtype, shape);
  check(byte_offset + out.bytes() <= bytes_, "a view reaches beyond its buffer");
  return out;
}

}  // namespace sluice
