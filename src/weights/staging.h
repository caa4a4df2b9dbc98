// SPDX-License-Identifier: Apache-2.0
// Fills host matrices from files (or with random numbers) ahead of their consumer: several threads, large reads in file
// order, bounded memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "weights/checkpoint.h"
#include "weights/quantised.h"
#include "weights/spec.h"

namespace sluice {

// A sub-matrix of one tensor and where it lands in the staged matrix. A vector is a matrix of
// one column.
struct StagingPart {
  const CheckpointTensor* tensor = nullptr;  // null: random
  int64_t source_cols = 1;                   // of the whole tensor as stored
  bool transposed = false;                   // the file holds columns as rows
  Range rows, cols;                          // in elements of the tensor
  int64_t to_row = 0, to_col = 0;
  uint64_t seed = 0;   // random: an element depends on seed, its row and its column alone
  float scale = 0.0f;  // random: uniform in [-scale, scale); 0 means ones
};

// Besides the numbers [rows][cols] u8 of a matrix that is quantised already. Filled with them.
struct StagedGroups {
  Scheme scheme = Scheme::kInt4;  // that pack() takes the numbers as they are with
  QuantisedColumns columns;
  std::vector<float> scale, zero;  // [rows][groups]
};

struct StagingItem {
  int64_t rows = 0, cols = 0;
  DType dtype = DType::kF32;
  std::vector<StagingPart> parts;
  std::shared_ptr<StagedGroups> groups{};                         // of a matrix that stays quantised; dtype is kU8
  std::vector<std::function<void(const HostMatrix&)>> consumers;  // called on the thread of stage()
};

struct StagingOptions {
  int threads = 4;
  size_t memory = size_t{1} << 30;       // bytes of matrices in flight; a larger matrix goes alone
  size_t read_bytes = size_t{16} << 20;  // of one read; reads end at multiples of it
  bool quiet = false;                    // no progress lines
  Backend* backend = nullptr;            // whose staging memory is used; null: plain memory
};

// Runs all items, in the order of their place in the files. Throws the first Error of any thread.
void stage(const std::vector<File>& files, std::vector<StagingItem> items, const StagingOptions& options);

}  // namespace sluice
