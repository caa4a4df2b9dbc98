// SPDX-License-Identifier: Apache-2.0
// The tensors of one step on the device, allocated once at their largest sizes, and the block tables of every slot,
// from which they are filled. Owned by one rank's executor.
//
// Steps of equal sizes get equal addresses. A step's numbers lie behind each other and travel in one copy; the block
// tables, wide and seldom changed, travel by themselves, and only when they changed.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/model.h"
#include "schedule/step.h"

namespace sluice {

class StepTensors {
 public:
  // Device memory that one takes.
  static size_t bytes(const RunLimits& limits, int64_t slots, int64_t groups);

  StepTensors(Backend& backend, const RunLimits& limits, int64_t slots, const std::vector<CacheGroupSpec>& groups);

  // Applies the step's table changes, then describes its rows. Entries of step.samples that follow each other and name
  // one row share a row of logits. `bucket` rows, sequences and logits in all where it exceeds the step's: the rest is
  // padding. The step has one row per sequence then. Encoder prompts are a view of their own, valid until the next
  // call.
  BatchView fill(const Step& step, int64_t bucket = 0);
  // Largest bucket that fill() takes.
  int64_t most_seqs() const { return limits_.max_seqs; }
  // After fill():
  Tensor row_slots() const { return row_slots_; }  // i32 [rows]
  Tensor entries() const { return entries_; }      // i32 [samples or bucket, 4]
  // Pairs i32 [n, 2] of the step's copies in one group, or an empty tensor.
  Tensor copies(const Step& step, int32_t group);

 private:
  struct Table {                // of one cache group
    std::vector<int32_t> sent;  // [seqs * width]: what the device holds
    int64_t sent_width = 0;
    Buffer device;  // i32 [max_seqs, max_blocks_]
  };

  int32_t& block(int64_t group, int32_t slot, int64_t index);
  Tensor take(int64_t elements);  // i32, zeroed on the host; the next stretch of host_ and of device_
  int32_t* host(const Tensor& of) { return host_.data() + (of.as<int32_t>() - static_cast<int32_t*>(device_.data())); }
  // Numbers of `sequences` whose first row is row `first` of the step; a step's encoder prompts, or the others.
  void describe(std::span<const StepSequence> sequences, int64_t first, const Step& step, BatchView& batch);
  void send_tables(std::span<const StepSequence> sequences, std::vector<Table>& tables, BatchView& batch);
  Tensor send_table(Table& table, int64_t group, std::span<const StepSequence> sequences, int64_t seqs);

  Backend& backend_;
  RunLimits limits_;
  int64_t slots_, max_blocks_;                  // max_blocks_: of one sequence
  std::vector<std::vector<int32_t>> blocks_;    // [groups][slots * max_blocks_]
  std::vector<bool> fixed_;                     // [groups]: holds the encoder's prompts
  std::vector<int32_t> encoder_tokens_;         // [slots]: of the encoder's prompt
  std::vector<Table> tables_, encoder_tables_;  // [groups], of the rows and of the encoder's prompts
  BatchView encoder_;
  std::vector<int32_t> begun_;  // [slots]: SlotInit::length
  std::vector<int32_t> host_, rows_of_table_, pairs_;
  Buffer device_, copies_;  // device_: as host_
  int64_t used_ = 0;        // elements of host_ and device_
  Tensor row_slots_, entries_;
};

}  // namespace sluice
