// SPDX-License-Identifier: Apache-2.0
// Matrices as GPUs hold them, made on the host: rows of elements, or rows of numbers of few bits with their scales
// (kernels/narrow.h). Packing for files needs no GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace sluice {

// Of packed weights in files: another layout of rows takes another name.
inline constexpr std::string_view kRowPacking = "cuda-rows-1";

// Parts in files: rows, [rows, stride] of floats or u8 [rows, groups, bytes of a group]; of schemes of few bits scales
// [rows, width]; order i32 [cols] as HostGroups has it, or none.
struct RowForm {
  enum Part : size_t { kRows, kScales, kOrder, kParts };
  RowForm(Scheme scheme, int64_t rows, int64_t cols, int64_t group);  // group: 0 for all columns
  RowForm(const HostMatrix& source, Scheme scheme);                   // as it is packed

  Scheme scheme;
  int64_t rows, cols;
  int64_t group = 0, groups = 1;  // columns that share a scale, padded to whole 16 bytes where they are all
  int64_t stride = 0;             // elements of a row, a multiple of 16 bytes
  int64_t width = 0;              // scales of a row: one for each group; with zeros twice as many
  DType element = DType::kU8, scale = DType::kF32;
  bool narrow() const { return element == DType::kU8; }
  size_t row_bytes() const { return static_cast<size_t>(stride) * dtype_bytes(element); }
  size_t scale_bytes() const { return static_cast<size_t>(width) * dtype_bytes(scale); }  // of a row
  std::vector<int64_t> shape(Part part) const;

  // Rows [first, first + n) of a source in few bits, rounded where it is of floats. On several threads.
  void make(const HostMatrix& source, int64_t first, int64_t n, void* to_rows, void* to_scales) const;
};

// Of a matrix from a file. Throws Error where its parts do not fit together.
RowForm check_rows(const PackedForm& form);

// A CPU backend that packs for GPUs; nothing is computed with its weights.
std::unique_ptr<Backend> make_row_packer(const CpuOptions& options);

}  // namespace sluice
