// SPDX-License-Identifier: Apache-2.0
// Arrays in device memory for the tests of kernels: written from f32 values, read back as f32 values, with the seed of
// the orders that threads, blocks and streams run in.
#pragma once

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "block.h"
#include "runtime.h"
#include "types.h"
#include "watch.h"

namespace sluice::test {

using kernels::Type;

inline DType dtype_of(Type type) {
  return type == Type::kF32 ? DType::kF32 : type == Type::kBF16 ? DType::kBF16 : DType::kF16;
}
inline const char* name_of(Type type) { return type == Type::kF32 ? "f32" : type == Type::kBF16 ? "bf16" : "f16"; }
inline float round_to(float v, Type type) {
  return type == Type::kBF16 ? bf16_to_f32(f32_to_bf16(v)) : type == Type::kF16 ? f16_to_f32(f32_to_f16(v)) : v;
}
// Half a unit in the last place, relative, at most.
inline float half_ulp(Type type) { return type == Type::kF32 ? 0x1p-24f : type == Type::kBF16 ? 0x1p-8f : 0x1p-11f; }

#define CUDA_OK(call) REQUIRE((call) == cudaSuccess)

// Owned bytes on the device; freed with its guards checked, and with what was found by watched kernels until then.
class DeviceBytes {
 public:
  explicit DeviceBytes(size_t bytes) : bytes_(bytes) { CUDA_OK(cudaMalloc(&data_, bytes)); }
  DeviceBytes(const void* host, size_t bytes) : DeviceBytes(bytes) { write(host); }
  DeviceBytes(DeviceBytes&& o) noexcept : data_(std::exchange(o.data_, nullptr)), bytes_(o.bytes_) {}
  DeviceBytes(const DeviceBytes&) = delete;
  ~DeviceBytes() {
    cudaFree(data_);
    for (const std::string& finding : emulation::take_findings()) FAIL_CHECK(finding);
  }
  // Both return before they are done: other streams than the null stream must not be ahead of them.
  void write(const void* host) {
    CUDA_OK(cudaMemcpy(data_, host, bytes_, cudaMemcpyHostToDevice));
    CUDA_OK(cudaDeviceSynchronize());
  }
  void read(void* host) const { CUDA_OK(cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost)); }
  void zero() {
    CUDA_OK(cudaMemset(data_, 0, bytes_));
    CUDA_OK(cudaDeviceSynchronize());
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

template <class T>
class DeviceVector {
 public:
  explicit DeviceVector(const std::vector<T>& values) : n_(values.size()), bytes_(values.size() * sizeof(T) + 16) {
    std::vector<unsigned char> host(bytes_.bytes(), 0xff);
    std::memcpy(host.data(), values.data(), n_ * sizeof(T));
    bytes_.write(host.data());
  }
  T* data() const { return static_cast<T*>(bytes_.data()); }
  std::vector<T> read() const {
    std::vector<unsigned char> host(bytes_.bytes());
    bytes_.read(host.data());
    std::vector<T> out(n_);
    std::memcpy(out.data(), host.data(), n_ * sizeof(T));
    return out;
  }

 private:
  size_t n_;
  DeviceBytes bytes_;
};

// A matrix of one element type; `gap` elements of noise between rows, which must stay as they are.
class DeviceMatrix {
 public:
  DeviceMatrix(Type type, int64_t rows, int64_t cols, int64_t gap = 0)
      : type_(type),
        rows_(rows),
        cols_(cols),
        stride_(cols + gap),
        bytes_(std::max<size_t>(16, static_cast<size_t>(rows * stride_) * kernels::type_bytes(type))) {}
  DeviceMatrix& fill(const std::vector<float>& values) {  // [rows, cols]
    std::vector<unsigned char> host(bytes_.bytes(), 0xff);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) {
        const float v = values[static_cast<size_t>(r * cols_ + c)];
        unsigned char* at = host.data() + static_cast<size_t>(r * stride_ + c) * kernels::type_bytes(type_);
        const uint16_t narrow = type_ == Type::kBF16 ? f32_to_bf16(v) : f32_to_f16(v);
        if (type_ == Type::kF32) {
          std::memcpy(at, &v, 4);
        } else {
          std::memcpy(at, &narrow, 2);
        }
      }
    }
    bytes_.write(host.data());
    return *this;
  }
  std::vector<float> read() const {
    std::vector<unsigned char> host(bytes_.bytes());
    bytes_.read(host.data());
    std::vector<float> out;
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < stride_; ++c) {
        const unsigned char* at = host.data() + static_cast<size_t>(r * stride_ + c) * kernels::type_bytes(type_);
        float wide;
        uint16_t narrow;
        std::memcpy(&narrow, at, 2);
        std::memcpy(&wide, at, type_ == Type::kF32 ? 4 : 2);
        const float v = type_ == Type::kF32 ? wide : type_ == Type::kBF16 ? bf16_to_f32(narrow) : f16_to_f32(narrow);
        if (c < cols_) {
          out.push_back(v);
        } else {
          REQUIRE(std::isnan(v));
        }
      }
    }
    return out;
  }
  void* data() const { return bytes_.data(); }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t stride() const { return stride_; }
  Type type() const { return type_; }

 private:
  Type type_;
  int64_t rows_, cols_, stride_;
  DeviceBytes bytes_;
};

// Normal values that `type` holds exactly.
inline std::vector<float> normal(std::mt19937& random, int64_t n, Type type = Type::kF32, float scale = 1.0f) {
  std::normal_distribution<float> draw(0, scale);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = round_to(draw(random), type);
  return out;
}
inline std::vector<float> iota(int64_t n, float from = 0) {
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = from + static_cast<float>(i);
  return out;
}

// A host matrix as the CPU backend sees it.
inline Tensor host_tensor(std::vector<float>& values, int64_t rows, int64_t cols) {
  return Tensor(values.data(), DType::kF32, {rows, cols});
}
inline Tensor host_ints(std::vector<int32_t>& values) {
  return Tensor(values.data(), DType::kI32, {static_cast<int64_t>(values.size())});
}

inline Backend& cpu() {
  static const std::unique_ptr<Backend> backend = [] {
    CpuOptions options;
    options.threads = 1;
    return make_cpu_backend(options);
  }();
  return *backend;
}

// Largest |got - want| as a share of (absolute + relative * |want|).
inline float worst(const std::vector<float>& got, const std::vector<float>& want, float relative, float absolute) {
  REQUIRE(got.size() == want.size());
  float out = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const float error = std::abs(got[i] - want[i]) / (absolute + relative * std::abs(want[i]));
    out = std::isnan(error) ? 1e30f : std::max(out, error);
  }
  return out;
}

// Runs `body` under several orders of threads and blocks.
template <class Body>
void in_several_orders(const Body& body, int orders = 3) {
  for (int seed = 1; seed <= orders; ++seed) {
    CAPTURE(seed);
    emulation::set_seed(static_cast<uint64_t>(seed));
    body();
  }
}

constexpr Type kTypes[] = {Type::kF32, Type::kBF16, Type::kF16};

}  // namespace sluice::test
