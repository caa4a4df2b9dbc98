// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/panel_weight.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/simd.h"
#include "base/error.h"

namespace sluice {
namespace {

constexpr int64_t kInputBlock = 256;  // inputs of one pass: the packed rows of a block stay in the second-level cache
constexpr int64_t kPanel = simd::kPanel;

float element(const HostMatrix& m, int64_t row, int64_t col) {
  const int64_t at = row * m.row_stride + col;
  switch (m.dtype) {
    case DType::kF32:
      return static_cast<const float*>(m.data)[at];
    case DType::kBF16:
      return bf16_to_f32(static_cast<const uint16_t*>(m.data)[at]);
    case DType::kF16:
      return f16_to_f32(static_cast<const uint16_t*>(m.data)[at]);
    default:
      fatal("weights are packed from f32, bf16 or f16");
  }
}

// Where feature n of a panel lies.
int64_t place(DType dtype, int64_t n) { return dtype == DType::kBF16 ? (n < 16 ? 2 * n : 2 * (n - 16) + 1) : n; }

// Rows split into tiles of nearly equal size.
struct Tiles {
  int64_t rows, count;
  Tiles(int64_t rows, int64_t most) : rows(rows), count((rows + most - 1) / most) {}
  int64_t begin(int64_t tile) const { return tile * rows / count; }
};

}  // namespace

PanelWeight::PanelWeight(int64_t rows, int64_t cols, DType dtype)
    : Weight(rows, cols, static_cast<size_t>((rows + kPanel - 1) / kPanel * kPanel * cols) * dtype_bytes(dtype)),
      panels_((rows + kPanel - 1) / kPanel),
      dtype_(dtype),
      data_(allocate_pages(bytes_)) {}

std::unique_ptr<Weight> PanelWeight::pack(const HostMatrix& source, DType dtype, Pool& pool) {
  std::unique_ptr<PanelWeight> made(new PanelWeight(source.rows, source.cols, dtype));
  const size_t width = dtype_bytes(dtype);
  const bool copies = dtype == source.dtype;
  pool.split(made->panels_, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      auto* panel = static_cast<uint8_t*>(made->data_.data()) + static_cast<size_t>(p * source.cols * kPanel) * width;
      const int64_t features = std::min(kPanel, source.rows - p * kPanel);
      for (int64_t n = 0; n < features; ++n) {
        const int64_t row = p * kPanel + n, at = place(dtype, n);
        if (copies && width == 2) {
          const auto* from = static_cast<const uint16_t*>(source.data) + row * source.row_stride;
          auto* to = reinterpret_cast<uint16_t*>(panel) + at;
          for (int64_t k = 0; k < source.cols; ++k) to[k * kPanel] = from[k];
        } else {
          for (int64_t k = 0; k < source.cols; ++k) {
            const float value = element(source, row, k);
            if (dtype == DType::kF32) {
              reinterpret_cast<float*>(panel)[k * kPanel + at] = value;
            } else {
              reinterpret_cast<uint16_t*>(panel)[k * kPanel + at] =
                  dtype == DType::kBF16 ? f32_to_bf16(value) : f32_to_f16(value);
            }
          }
        }
      }
    }
  });
  return made;
}

void PanelWeight::product(const Tensor& out, const Tensor& x, const Epilogue& epilogue, Pool& pool,
                          ProductScratch& scratch) const {
  const int64_t rows = x.dim(0), inputs = cols_;
  if (rows == 0) return;
  check(x.dtype == DType::kF32 && out.dtype == DType::kF32 && x.dim(1) == inputs && out.dim(0) == rows &&
            out.dim(1) == rows_,
        "a product's shapes do not fit its weight");
  check(!epilogue.residual || epilogue.residual.data != out.data, "the residual of a product is its output");
  const Tiles tiles(rows, simd::tile_rows());
  if (scratch.x.size() < static_cast<size_t>(rows * inputs)) scratch.x.resize(static_cast<size_t>(rows * inputs));
  if (scratch.edges.size() < static_cast<size_t>(pool.threads()))
    scratch.edges.resize(static_cast<size_t>(pool.threads()));
  float* packed = scratch.x.data();

  const int64_t pieces = rows * inputs > 65536 ? tiles.count : tiles.count + 1;  // small ones on this thread
  pool.split(tiles.count, std::max<int64_t>(1, pieces > tiles.count ? tiles.count : 1),
             [&](int64_t begin, int64_t end, int) {
               for (int64_t t = begin; t < end; ++t) {
                 const int64_t first = tiles.begin(t), n = tiles.begin(t + 1) - first;
                 float* to = packed + first * inputs;
                 for (int64_t r = 0; r < n; ++r) {
                   const auto* from = static_cast<const float*>(x.row(first + r));
                   for (int64_t k = 0; k < inputs; ++k) to[k * n + r] = from[k];
                 }
               }
             });

  const size_t width = dtype_bytes(dtype_);
  const int64_t block = tiles.count > 2 ? kInputBlock : inputs;
  const int64_t chunk = std::clamp<int64_t>(panels_ / (4 * pool.threads()), 1, 8);
  pool.split(panels_, chunk, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t k = 0; k < inputs; k += block) {
      const int64_t n_inputs = std::min(block, inputs - k);
      for (int64_t p = begin; p < end; ++p) {
        const int64_t feature = p * kPanel;
        const bool whole = feature + kPanel <= rows_;
        float* edge = nullptr;
        if (!whole) {
          std::vector<float>& memory = scratch.edges[static_cast<size_t>(thread)];
          if (memory.size() < static_cast<size_t>(rows * kPanel)) memory.resize(static_cast<size_t>(rows * kPanel));
          edge = memory.data();
        }
        const auto* panel =
            static_cast<const uint8_t*>(data_.data()) + static_cast<size_t>((p * inputs + k) * kPanel) * width;
        for (int64_t t = 0; t < tiles.count; ++t) {
          const int64_t first = tiles.begin(t), n = tiles.begin(t + 1) - first;
          float* to = whole ? static_cast<float*>(out.row(first)) + feature : edge + first * kPanel;
          simd::panel_tile({panel, dtype_, n_inputs, packed + first * inputs + k * n, static_cast<int>(n), to,
                            whole ? out.row_stride : kPanel, k > 0});
        }
      }
    }
    for (int64_t p = begin; p < end; ++p) {
      const int64_t feature = p * kPanel, n = std::min(kPanel, rows_ - feature);
      for (int64_t r = 0; r < rows; ++r) {
        float* to = static_cast<float*>(out.row(r)) + feature;
        if (n < kPanel)
          std::memcpy(to, scratch.edges[static_cast<size_t>(thread)].data() + r * kPanel,
                      static_cast<size_t>(n) * sizeof(float));
        if (epilogue.bias) simd::add(to, epilogue.bias.as<float>() + feature, n);
        if (epilogue.residual) simd::add(to, static_cast<const float*>(epilogue.residual.row(r)) + feature, n);
      }
    }
  });
}

}  // namespace sluice
