// SPDX-License-Identifier: Apache-2.0
// Linear layers of checkpoints that are quantised already: GPTQ, AWQ (gemm), int8 rows as bitsandbytes writes them, fp8
// (e4m3) with a scale for all of a matrix, for each row or for each block, and mxfp4 stacks of experts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weights/checkpoint.h"
#include "weights/spec.h"

namespace sluice {

struct QuantFormat {
  enum class Kind : uint8_t { kGptq, kAwq, kRows8, kFp8, kMxfp4 };
  Kind kind = Kind::kGptq;
  int bits = 4;                            // kGptq: 2, 3, 4 or 8; kMxfp4: 8, of whole numbers that mean the same
  int64_t group = 128;                     // input features that share a scale; 0: all of them
  bool zeros_less_one = true;              // kGptq: the file holds each zero less one
  bool ordered = false;                    // kGptq: g_idx maps input features to groups (desc_act)
  int64_t block_rows = 0, block_cols = 0;  // kFp8: of a scale, where it is for a block
  std::string name;                        // "gptq"
};

// One layer's tensors. A CheckpointTensor that has one of these stands for the float matrix [out, in] that they mean.
struct QuantisedTensor {
  QuantFormat format;
  int64_t rows = 0, cols = 0;                      // output and input features; rows of a whole stack
  CheckpointTensor numbers, zeros, scales, order;  // order and zeros: where the format has them
  int64_t group() const { return format.group > 0 ? format.group : cols; }
  int64_t groups() const { return (cols + group() - 1) / group(); }
};

// How the columns of a slice are arranged for pack(): groups side by side.
struct QuantisedColumns {
  int64_t group = 0;
  std::vector<int32_t> order;   // [cols] as HostGroups has it, relative to the slice; empty: as they are
  std::vector<int32_t> groups;  // the file's group of each group
  bool operator==(const QuantisedColumns&) const = default;
};

// Replaces the tensors of quantised layers in `tensors` by the matrices NAME.weight that they mean. Throws Error where
// their shapes do not fit together.
std::vector<CheckpointTensor> join_quantised(std::vector<CheckpointTensor> tensors, const QuantFormat& format,
                                             const std::string& origin);

// The arrangement of input features `cols` of a layer; `group` is 0 where its groups are cut by the slice, or are no
// multiple of 32, so that the layer must be held as floats.
QuantisedColumns arrange_columns(const std::vector<File>& files, const QuantisedTensor& tensor, const Range& cols);

// The slice [rows] x [cols] as pack() takes it: numbers [rows][stride] u8, scales and zeros [rows][columns' groups].
void read_quantised(const std::vector<File>& files, const QuantisedTensor& tensor, const Range& rows, const Range& cols,
                    const QuantisedColumns& columns, uint8_t* numbers, int64_t stride, float* scales, float* zeros);

// The slice as the floats that it means, [rows][stride].
void read_as_floats(const std::vector<File>& files, const QuantisedTensor& tensor, const Range& rows, const Range& cols,
                    float* to, int64_t stride);

}  // namespace sluice
