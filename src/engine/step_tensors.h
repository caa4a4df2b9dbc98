// SPDX-License-Identifier: Apache-2.0
// The tensors of one step on the device, allocated once at their largest sizes, and the block tables of every slot,
// from which they are filled. Owned by one rank's executor.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "model/model.h"
#include "schedule/step.h"

namespace sluice {

// A host array of i32 and its copy on the device.
class StagedInts {
 public:
  StagedInts(Backend& backend, int64_t most);
  void clear() { host_.clear(); }
  void push(int32_t value) { host_.push_back(value); }
  std::vector<int32_t>& host() { return host_; }
  Tensor upload();  // i32 [n]

 private:
  Backend& backend_;
  std::vector<int32_t> host_;
  Buffer device_;
  int64_t most_;
};

class StepTensors {
 public:
  StepTensors(Backend& backend, const RunLimits& limits, int64_t slots, size_t groups);

  // Applies the step's table changes, then describes its rows. Entries of step.samples that follow each other and name
  // one row share a row of logits.
  BatchView fill(const Step& step);
  // After fill():
  Tensor row_slots() { return row_slots_.upload(); }  // i32 [rows]
  Tensor entries() { return entries_.upload().reshaped({static_cast<int64_t>(entries_.host().size()) / 4, 4}); }
  // Pairs i32 [n, 2] of the step's copies in one group, or an empty tensor.
  Tensor copies(const Step& step, int32_t group);

 private:
  int32_t& block(int64_t group, int32_t slot, int64_t index);

  RunLimits limits_;
  int64_t slots_, max_blocks_;                // max_blocks_: of one sequence
  std::vector<std::vector<int32_t>> tables_;  // [groups][slots * max_blocks_]
  StagedInts tokens_, positions_, first_row_, context_, logits_rows_, row_slots_, entries_, copies_;
  std::vector<StagedInts> cache_slots_, block_tables_;  // [groups]
};

}  // namespace sluice
