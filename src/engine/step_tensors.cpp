// SPDX-License-Identifier: Apache-2.0
#include "engine/step_tensors.h"

#include <algorithm>

#include "base/error.h"

namespace sluice {

StagedInts::StagedInts(Backend& backend, int64_t most)
    : backend_(backend), device_(backend.allocate(static_cast<size_t>(most) * sizeof(int32_t))), most_(most) {
  host_.reserve(static_cast<size_t>(most));
}

Tensor StagedInts::upload() {
  const auto n = static_cast<int64_t>(host_.size());
  check(n <= most_, "a step exceeds the sizes fixed at start");
  const Tensor device = device_.view(DType::kI32, {n});
  if (n > 0) backend_.copy_in(device, host_.data());
  return device;
}

StepTensors::StepTensors(Backend& backend, const RunLimits& limits, int64_t slots, size_t groups)
    : limits_(limits),
      slots_(slots),
      max_blocks_((limits.max_context + limits.block_size - 1) / limits.block_size),
      tables_(groups, std::vector<int32_t>(static_cast<size_t>(slots * max_blocks_))),
      tokens_(backend, limits.max_rows),
      positions_(backend, limits.max_rows),
      first_row_(backend, limits.max_seqs + 1),
      context_(backend, limits.max_seqs),
      logits_rows_(backend, limits.max_logits),
      row_slots_(backend, limits.max_rows),
      entries_(backend, 4 * limits.max_logits),
      copies_(backend, 2 * slots) {
  check(groups <= BatchView::kMaxGroups, "a model has more cache groups than a step can describe");
  for (size_t g = 0; g < groups; ++g) {
    cache_slots_.emplace_back(backend, limits.max_rows);
    block_tables_.emplace_back(backend, limits.max_seqs * max_blocks_);
  }
}

int32_t& StepTensors::block(int64_t group, int32_t slot, int64_t index) {
  check(group < static_cast<int64_t>(tables_.size()) && slot < slots_ && index < max_blocks_,
        "a step names a slot or block outside the sizes fixed at start");
  return tables_[static_cast<size_t>(group)][static_cast<size_t>(slot * max_blocks_ + index)];
}

BatchView StepTensors::fill(const Step& step) {
  for (const BlockDelta& d : step.tables) {
    block(d.group, d.slot, d.index) = d.block;
    check(d.block < limits_.blocks[static_cast<size_t>(d.group)], "a step names a block that does not exist");
  }
  for (StagedInts* ints : {&positions_, &first_row_, &context_, &logits_rows_, &row_slots_, &entries_}) ints->clear();
  tokens_.host().assign(step.tokens.begin(), step.tokens.end());

  int64_t width = 1;  // blocks of the longest sequence
  for (const StepSequence& s : step.sequences) {
    const int32_t end = s.first_position + s.n_rows;
    check(s.first_row == static_cast<int32_t>(positions_.host().size()) && end <= limits_.max_context,
          "a step's sequences are out of order or too long");
    width = std::max(width, (end + limits_.block_size - 1) / limits_.block_size);
    first_row_.push(s.first_row);
    context_.push(end);
    for (int32_t position = s.first_position; position < end; ++position) {
      positions_.push(position);
      row_slots_.push(s.slot);
    }
  }
  first_row_.push(static_cast<int32_t>(step.rows()));
  check(static_cast<int64_t>(positions_.host().size()) == step.rows(), "a step has rows of no sequence");

  int32_t logits = -1, last_row = -1;
  for (const SampleEntry& e : step.samples) {
    if (e.row != last_row) {
      logits_rows_.push(last_row = e.row);
      ++logits;
    }
    for (int32_t value : {logits, e.slot, e.position, e.target}) entries_.push(value);
  }

  BatchView batch;
  batch.rows = step.rows();
  batch.seqs = static_cast<int64_t>(step.sequences.size());
  batch.logits = static_cast<int64_t>(logits_rows_.host().size());
  batch.tokens = tokens_.upload();
  batch.positions = positions_.upload();
  batch.first_row = first_row_.upload();
  batch.context = context_.upload();
  batch.logits_rows = logits_rows_.upload();
  for (size_t g = 0; g < tables_.size(); ++g) {
    StagedInts &slots = cache_slots_[g], &table = block_tables_[g];
    slots.clear();
    table.clear();
    for (const StepSequence& s : step.sequences) {
      const int32_t* blocks = &block(static_cast<int64_t>(g), s.slot, 0);
      for (int32_t p = s.first_position; p < s.first_position + s.n_rows; ++p)
        slots.push(static_cast<int32_t>(blocks[p / limits_.block_size] * limits_.block_size + p % limits_.block_size));
      table.host().insert(table.host().end(), blocks, blocks + width);
    }
    batch.cache[g].slots = slots.upload();
    batch.cache[g].block_table = table.upload().reshaped({batch.seqs, width});
  }
  return batch;
}

Tensor StepTensors::copies(const Step& step, int32_t group) {
  copies_.clear();
  for (const BlockCopy& c : step.copies)
    if (c.group == group) {
      copies_.push(c.from);
      copies_.push(c.to);
    }
  if (copies_.host().empty()) return {};
  return copies_.upload().reshaped({static_cast<int64_t>(copies_.host().size()) / 2, 2});
}

}  // namespace sluice
