// SPDX-License-Identifier: Apache-2.0
#include "engine/step_tensors.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace sluice {
namespace {
constexpr int64_t kAlign = 16;  // elements: 64 bytes
int64_t aligned(int64_t elements) { return (elements + kAlign - 1) / kAlign * kAlign; }
}  // namespace

StepTensors::StepTensors(Backend& backend, const RunLimits& limits, int64_t slots, size_t groups)
    : backend_(backend),
      limits_(limits),
      slots_(slots),
      max_blocks_((limits.max_context + limits.block_size - 1) / limits.block_size),
      tables_(groups) {
  check(groups <= BatchView::kMaxGroups, "a model has more cache groups than a step can describe");
  const int64_t rows = aligned(limits.max_rows), seqs = aligned(limits.max_seqs + 1), logits = limits.max_logits;
  const int64_t most = (3 + static_cast<int64_t>(groups)) * rows + 2 * seqs + aligned(logits) + aligned(4 * logits);
  host_.resize(static_cast<size_t>(most));
  device_ = backend.allocate(host_.size() * sizeof(int32_t));
  copies_ = backend.allocate(static_cast<size_t>(2 * slots) * sizeof(int32_t));
  pairs_.reserve(static_cast<size_t>(2 * slots));
  for (Table& table : tables_) {
    table.of_slots.resize(static_cast<size_t>(slots * max_blocks_));
    table.device = backend.allocate(static_cast<size_t>(limits.max_seqs * max_blocks_) * sizeof(int32_t));
  }
}

int32_t& StepTensors::block(int64_t group, int32_t slot, int64_t index) {
  check(group < static_cast<int64_t>(tables_.size()) && slot < slots_ && index < max_blocks_,
        "a step names a slot or block outside the sizes fixed at start");
  return tables_[static_cast<size_t>(group)].of_slots[static_cast<size_t>(slot * max_blocks_ + index)];
}

Tensor StepTensors::take(int64_t elements) {
  check(used_ + aligned(elements) <= static_cast<int64_t>(host_.size()), "a step exceeds the sizes fixed at start");
  const Tensor out = device_.view(DType::kI32, {elements}, static_cast<size_t>(used_) * sizeof(int32_t));
  std::fill_n(host_.begin() + used_, elements, 0);
  used_ += aligned(elements);
  return out;
}

BatchView StepTensors::fill(const Step& step, int64_t bucket) {
  for (const BlockDelta& d : step.tables) {
    block(d.group, d.slot, d.index) = d.block;
    check(d.block < limits_.blocks[static_cast<size_t>(d.group)], "a step names a block that does not exist");
  }
  int64_t logits = 0;
  int32_t last_row = -1;
  for (const SampleEntry& e : step.samples) {
    logits += e.row != last_row ? 1 : 0;
    last_row = e.row;
  }
  const auto own_seqs = static_cast<int64_t>(step.sequences.size()),
             own_samples = static_cast<int64_t>(step.samples.size());
  check(bucket == 0 ||
            (bucket >= step.rows() && step.rows() == own_seqs && bucket >= own_samples && logits == own_samples),
        "only steps with one row and one draw per sequence are padded");
  BatchView batch;
  batch.rows = std::max(step.rows(), bucket);
  batch.seqs = std::max(own_seqs, bucket);
  batch.logits = std::max(logits, bucket);
  check(batch.rows <= limits_.max_rows && batch.seqs <= limits_.max_seqs && batch.logits <= limits_.max_logits,
        "a step exceeds the sizes fixed at start");

  batch.decode_only = step.rows() == own_seqs;  // a sequence of a step has rows
  used_ = 0;
  batch.tokens = take(batch.rows);
  batch.positions = take(batch.rows);
  row_slots_ = take(batch.rows);
  for (size_t g = 0; g < tables_.size(); ++g) batch.cache[g].slots = take(batch.rows);
  batch.first_row = take(batch.seqs + 1);
  batch.context = take(batch.seqs);
  batch.logits_rows = take(batch.logits);
  entries_ = take(4 * std::max(own_samples, bucket)).reshaped({std::max(own_samples, bucket), 4});

  std::ranges::copy(step.tokens, host(batch.tokens));
  int32_t *positions = host(batch.positions), *slots = host(row_slots_), *first_row = host(batch.first_row),
          *context = host(batch.context);
  int64_t row = 0;
  for (const StepSequence& s : step.sequences) {
    const int32_t end = s.first_position + s.n_rows;
    check(s.first_row == row && row + s.n_rows <= step.rows() && end <= limits_.max_context,
          "a step's sequences are out of order or too long");
    *first_row++ = s.first_row;
    *context++ = end;
    for (int32_t i = 0; i < s.n_rows; ++i) {
      positions[row + i] = s.first_position + i;
      slots[row + i] = s.slot;
    }
    for (size_t g = 0; g < tables_.size(); ++g) {
      const int32_t* blocks = &block(static_cast<int64_t>(g), s.slot, 0);
      int32_t* to = host(batch.cache[g].slots) + row;
      for (int32_t p = s.first_position; p < end; ++p)
        *to++ = static_cast<int32_t>(blocks[p / limits_.block_size] * limits_.block_size + p % limits_.block_size);
    }
    row += s.n_rows;
  }
  check(row == step.rows(), "a step has rows of no sequence");
  std::fill_n(first_row, batch.seqs - own_seqs + 1, static_cast<int32_t>(row));
  for (size_t g = 0; g < tables_.size(); ++g) std::fill_n(host(batch.cache[g].slots) + row, batch.rows - row, -1);

  int32_t *logits_rows = host(batch.logits_rows), *entry = host(entries_), at = -1;
  last_row = -1;
  for (const SampleEntry& e : step.samples) {
    if (e.row != last_row) logits_rows[++at] = last_row = e.row;
    for (const int32_t value : {at, e.slot, e.position, e.target}) *entry++ = value;
  }
  for (int64_t i = own_samples; i < entries_.dim(0); ++i)
    for (const int32_t value : {-1, 0, 0, -1}) *entry++ = value;

  if (used_ > 0) backend_.copy_in(device_.view(DType::kI32, {used_}), host_.data());
  for (size_t g = 0; g < tables_.size(); ++g)
    batch.cache[g].block_table = send_table(tables_[g], static_cast<int64_t>(g), step, batch.seqs);
  return batch;
}

// Padding sequences have no rows; their rows of the table stay as they are.
Tensor StepTensors::send_table(Table& table, int64_t group, const Step& step, int64_t seqs) {
  const Tensor whole = table.device.view(DType::kI32, {seqs, max_blocks_});
  int64_t width = 1;  // blocks of the longest sequence
  for (const StepSequence& s : step.sequences)
    width = std::max<int64_t>(width, (s.first_position + s.n_rows + limits_.block_size - 1) / limits_.block_size);
  rows_of_table_.clear();
  for (const StepSequence& s : step.sequences) {
    const int32_t* blocks = &block(group, s.slot, 0);
    rows_of_table_.insert(rows_of_table_.end(), blocks, blocks + width);
  }
  if (rows_of_table_.empty() || (width == table.sent_width && rows_of_table_ == table.sent)) return whole;
  backend_.copy_in(whole.rows(0, static_cast<int64_t>(step.sequences.size())).columns(0, width), rows_of_table_.data());
  std::swap(table.sent, rows_of_table_);
  table.sent_width = width;
  return whole;
}

Tensor StepTensors::copies(const Step& step, int32_t group) {
  pairs_.clear();
  for (const BlockCopy& c : step.copies)
    if (c.group == group) {
      pairs_.push_back(c.from);
      pairs_.push_back(c.to);
    }
  if (pairs_.empty()) return {};
  const Tensor device = copies_.view(DType::kI32, {static_cast<int64_t>(pairs_.size()) / 2, 2});
  backend_.copy_in(device, pairs_.data());
  return device;
}

}  // namespace sluice
