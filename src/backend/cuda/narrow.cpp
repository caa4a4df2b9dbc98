// SPDX-License-Identifier: Apache-2.0
// Weights of 8 and 4 bits: rounded on the host as the CPU backend rounds them, by several threads, and multiplied with
// activations that keep their type.
#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/quantise.h"
#include "base/error.h"

namespace sluice::cuda {
namespace {

constexpr int64_t kRowsAtOnce = 256;
constexpr int64_t kMostThreads = 8;

void widen_row(float* to, const void* from, DType dtype, int64_t n) {
  const auto* narrow = static_cast<const uint16_t*>(from);
  switch (dtype) {
    case DType::kF32:
      std::copy_n(static_cast<const float*>(from), n, to);
      return;
    case DType::kBF16:
      std::transform(narrow, narrow + n, to, bf16_to_f32);
      return;
    case DType::kF16:
      std::transform(narrow, narrow + n, to, f16_to_f32);
      return;
    default:
      fatal("weights are rounded from float32, bfloat16 or float16");
  }
}

// Rows of a matrix as the kernels take them (kernels/narrow.h).
struct Rows {
  const HostMatrix& source;
  kernels::Bits bits;
  int64_t stride, group, groups;
  std::vector<uint8_t> numbers;  // [rows][stride]
  std::vector<float> scales;     // kEight: [rows]
  std::vector<uint16_t> pairs;   // kFour: [rows][groups][2], f16

  void make(int64_t first, int64_t begin, int64_t end) {
    const int64_t cols = source.cols;
    const bool wide = bits == kernels::Bits::kEight;
    const auto count = static_cast<size_t>(wide ? 1 : groups);
    QuantisedRow q{std::vector<uint8_t>(static_cast<size_t>(cols)), std::vector<float>(count),
                   std::vector<uint8_t>(count)};
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t r = begin; r < end; ++r) {
      const char* from = static_cast<const char*>(source.data) +
                         static_cast<size_t>((first + r) * source.row_stride) * dtype_bytes(source.dtype);
      if (source.groups != nullptr) {
        std::copy_n(reinterpret_cast<const uint8_t*>(from), cols, q.numbers.begin());
        for (size_t g = 0; g < count; ++g) {
          const size_t at = static_cast<size_t>(first + r) * count + g;
          q.scales[g] = source.groups->scale[at];
          q.zeros[g] = static_cast<uint8_t>(source.groups->zero[at]);
        }
      } else {
        widen_row(row.data(), from, source.dtype, cols);
        wide ? round_row_int8(q, row.data(), cols) : round_row_int4(q, row.data(), cols);
      }
      uint8_t* to = numbers.data() + r * stride;
      if (wide) {
        for (int64_t k = 0; k < cols; ++k) to[k] = static_cast<uint8_t>(q.numbers[static_cast<size_t>(k)] - 128);
        scales[static_cast<size_t>(r)] = q.scales[0];
        continue;
      }
      std::fill_n(to, stride, uint8_t{0});
      for (int64_t k = 0; k < cols; ++k)
        to[k / 2] = static_cast<uint8_t>(to[k / 2] | q.numbers[static_cast<size_t>(k)] << (4 * (k % 2)));
      for (size_t g = 0; g < count; ++g) {
        const size_t at = 2 * (static_cast<size_t>(r) * count + g);
        pairs[at] = f32_to_f16(q.scales[g]);
        pairs[at + 1] = f32_to_f16(static_cast<float>(q.zeros[g]));
      }
    }
  }
};

}  // namespace

std::unique_ptr<Weight> CudaBackend::pack_narrow(const HostMatrix& source, Scheme scheme) {
  const bool wide = scheme == Scheme::kInt8;
  const int64_t rows = source.rows, cols = source.cols;
  int64_t group = kInt4Group;
  if (source.groups != nullptr) {
    group = source.groups->group < cols ? source.groups->group : (cols + 31) / 32 * 32;
  }
  check(wide || group % 32 == 0, "groups of 4-bit weights are multiples of 32 columns");
  const int64_t stride = ((wide ? cols : (cols + 1) / 2) + 15) / 16 * 16, groups = (cols + group - 1) / group;
  const size_t scale_bytes = wide ? sizeof(float) : static_cast<size_t>(groups) * 2 * sizeof(uint16_t);
  auto weight =
      std::make_unique<CudaWeight>(rows, cols, stride, group, wide ? kernels::Bits::kEight : kernels::Bits::kFour,
                                   allocate_device(static_cast<size_t>(rows * stride), stream_),
                                   allocate_device(static_cast<size_t>(rows) * scale_bytes, stream_));
  if (source.groups != nullptr && source.groups->order != nullptr) {
    const size_t bytes = static_cast<size_t>(cols) * sizeof(int32_t);
    weight->order = allocate_device(bytes, stream_);
    ring_.upload(weight->order.data(), bytes, source.groups->order, bytes, 1);
  }
  const int64_t most = std::min(rows, kRowsAtOnce);
  Rows part{source, weight->bits, stride, group, groups, std::vector<uint8_t>(static_cast<size_t>(most * stride)), {},
            {}};
  if (wide) part.scales.resize(static_cast<size_t>(most));
  if (!wide) part.pairs.resize(static_cast<size_t>(most * groups * 2));
  const int64_t threads =
      std::clamp<int64_t>(static_cast<int64_t>(std::thread::hardware_concurrency()), 1, std::min(kMostThreads, most));
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t now = std::min(most, rows - first);
    std::vector<std::thread> pool;
    for (int64_t t = 1; t < threads; ++t)
      pool.emplace_back([&, t] { part.make(first, now * t / threads, now * (t + 1) / threads); });
    part.make(first, 0, now / threads);
    for (std::thread& thread : pool) thread.join();
    ring_.upload(static_cast<char*>(weight->data.data()) + first * stride, static_cast<size_t>(stride),
                 part.numbers.data(), static_cast<size_t>(stride), static_cast<size_t>(now));
    ring_.upload(static_cast<char*>(weight->scales.data()) + static_cast<size_t>(first) * scale_bytes, scale_bytes,
                 wide ? static_cast<const void*>(part.scales.data()) : part.pairs.data(), scale_bytes,
                 static_cast<size_t>(now));
  }
  return weight;
}

}  // namespace sluice::cuda
