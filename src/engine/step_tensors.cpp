// SPDX-License-Identifier: Apache-2.0
#include "engine/step_tensors.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace sluice {
namespace {
constexpr int64_t kAlign = 16;  // elements: 64 bytes
int64_t aligned(int64_t elements) { return (elements + kAlign - 1) / kAlign * kAlign; }

int64_t blocks_of_sequence(const RunLimits& limits) {
  return (std::max(limits.max_context, limits.max_encoder) + limits.block_size - 1) / limits.block_size;
}

// Numbers of a step, block tables aside.
int64_t most_numbers(const RunLimits& limits, int64_t groups) {
  const int64_t seqs = aligned(limits.max_seqs + 1), encoder_rows = aligned(limits.max_encoder);
  const int64_t decoder =
      (4 + groups) * aligned(limits.max_rows) + 3 * seqs + aligned(limits.max_logits) + aligned(4 * limits.max_logits);
  return decoder + (encoder_rows > 0 ? (2 + groups) * encoder_rows + 3 * seqs : 0);
}
}  // namespace

size_t StepTensors::bytes(const RunLimits& limits, int64_t slots, int64_t groups) {
  const int64_t tables = limits.max_encoder > 0 ? 2 * groups : groups;
  const int64_t numbers =
      most_numbers(limits, groups) + 2 * slots + tables * limits.max_seqs * blocks_of_sequence(limits);
  return static_cast<size_t>(numbers) * sizeof(int32_t);
}

StepTensors::StepTensors(Backend& backend, const RunLimits& limits, int64_t slots,
                         const std::vector<CacheGroupSpec>& groups)
    : backend_(backend),
      limits_(limits),
      slots_(slots),
      max_blocks_(blocks_of_sequence(limits)),
      blocks_(groups.size(), std::vector<int32_t>(static_cast<size_t>(slots * max_blocks_))),
      encoder_tokens_(static_cast<size_t>(slots)),
      tables_(groups.size()),
      begun_(static_cast<size_t>(slots)) {
  check(groups.size() <= BatchView::kMaxGroups, "a model has more cache groups than a step can describe");
  for (const CacheGroupSpec& group : groups) fixed_.push_back(group.growth == CacheGroupSpec::Growth::kFixed);
  if (limits.max_encoder > 0) encoder_tables_.resize(groups.size());
  host_.resize(static_cast<size_t>(most_numbers(limits, static_cast<int64_t>(groups.size()))));
  device_ = backend.allocate(host_.size() * sizeof(int32_t));
  copies_ = backend.allocate(static_cast<size_t>(2 * slots) * sizeof(int32_t));
  pairs_.reserve(static_cast<size_t>(2 * slots));
  for (std::vector<Table>* tables : {&tables_, &encoder_tables_})
    for (Table& table : *tables)
      table.device = backend.allocate(static_cast<size_t>(limits.max_seqs * max_blocks_) * sizeof(int32_t));
}

int32_t& StepTensors::block(int64_t group, int32_t slot, int64_t index) {
  check(group < static_cast<int64_t>(blocks_.size()) && slot < slots_ && index < max_blocks_,
        "a step names a slot or block outside the sizes fixed at start");
  return blocks_[static_cast<size_t>(group)][static_cast<size_t>(slot * max_blocks_ + index)];
}

Tensor StepTensors::take(int64_t elements) {
  check(used_ + aligned(elements) <= static_cast<int64_t>(host_.size()), "a step exceeds the sizes fixed at start");
  const Tensor out = device_.view(DType::kI32, {elements}, static_cast<size_t>(used_) * sizeof(int32_t));
  std::fill_n(host_.begin() + used_, elements, 0);
  used_ += aligned(elements);
  return out;
}

// Rows of an encoder's prompt go to the groups that hold it, those of tokens to the others.
void StepTensors::describe(std::span<const StepSequence> sequences, int64_t first, const Step& step, BatchView& batch) {
  batch.tokens = take(batch.rows);
  batch.positions = take(batch.rows);
  for (size_t g = 0; g < blocks_.size(); ++g) batch.cache[g].slots = take(batch.rows);
  batch.first_row = take(batch.seqs + 1);
  batch.context = take(batch.seqs);
  const bool encodes = limits_.max_encoder > 0;
  const Tensor encoder_context = encodes ? take(batch.seqs) : Tensor{};
  int32_t *tokens = host(batch.tokens), *positions = host(batch.positions), *first_row = host(batch.first_row),
          *context = host(batch.context);
  int64_t row = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const StepSequence& s = sequences[i];
    const int32_t end = s.first_position + s.n_rows;
    check(s.first_row == first + row && row + s.n_rows <= batch.rows &&
              end <= (s.phase == Phase::kEncode ? limits_.max_encoder : limits_.max_context),
          "a step's sequences are out of order or too long");
    first_row[i] = static_cast<int32_t>(row);
    context[i] = end;
    if (encodes) host(encoder_context)[i] = encoder_tokens_[static_cast<size_t>(s.slot)];
    std::copy_n(step.tokens.begin() + s.first_row, s.n_rows, tokens + row);
    for (int32_t r = 0; r < s.n_rows; ++r) positions[row + r] = s.first_position + r;
    for (size_t g = 0; g < blocks_.size(); ++g) {
      const int32_t* blocks = &block(static_cast<int64_t>(g), s.slot, 0);
      int32_t* to = host(batch.cache[g].slots) + row;
      const bool writes = fixed_[g] == (s.phase == Phase::kEncode);
      for (int32_t p = s.first_position; p < end; ++p)
        *to++ =
            !writes
                ? -1
                : static_cast<int32_t>(blocks[p / limits_.block_size] * limits_.block_size + p % limits_.block_size);
    }
    row += s.n_rows;
  }
  std::fill_n(first_row + sequences.size(), batch.seqs + 1 - static_cast<int64_t>(sequences.size()),
              static_cast<int32_t>(row));
  for (size_t g = 0; g < blocks_.size(); ++g) {
    std::fill_n(host(batch.cache[g].slots) + row, batch.rows - row, -1);
    if (fixed_[g]) batch.cache[g].context = encoder_context;
  }
}

BatchView StepTensors::fill(const Step& step, int64_t bucket) {
  for (const SlotInit& init : step.inits) {
    check(init.slot < slots_ && init.n_encoder <= limits_.max_encoder, "a step's slot is outside the sizes of start");
    encoder_tokens_[static_cast<size_t>(init.slot)] = init.n_encoder;
    begun_[static_cast<size_t>(init.slot)] = init.length;
  }
  for (const BlockDelta& d : step.tables) {
    block(d.group, d.slot, d.index) = d.block;
    check(d.block < limits_.blocks[static_cast<size_t>(d.group)], "a step names a block that does not exist");
  }
  const auto encodes = std::ranges::find(step.sequences, Phase::kEncode, &StepSequence::phase);
  const std::span<const StepSequence> decoder(step.sequences.begin(), encodes), encoder(encodes, step.sequences.end());
  int64_t rows = 0, encoder_rows = 0;
  for (const StepSequence& s : decoder) rows += s.n_rows;
  for (const StepSequence& s : encoder) encoder_rows += s.n_rows;
  check(rows + encoder_rows == step.rows(), "a step has rows of no sequence");

  int64_t logits = 0;
  int32_t last_row = -1;
  for (const SampleEntry& e : step.samples) {
    logits += e.row != last_row ? 1 : 0;
    last_row = e.row;
  }
  const auto own_seqs = static_cast<int64_t>(decoder.size()), own_samples = static_cast<int64_t>(step.samples.size());
  check(bucket == 0 || (bucket >= rows && rows == own_seqs && bucket >= own_samples && logits == own_samples),
        "only steps with one row and one draw per sequence are padded");
  BatchView batch;
  batch.rows = std::max(rows, bucket);
  batch.seqs = std::max(own_seqs, bucket);
  batch.logits = std::max(logits, bucket);
  check(batch.rows <= limits_.max_rows && batch.seqs <= limits_.max_seqs && batch.logits <= limits_.max_logits &&
            encoder_rows <= limits_.max_encoder && static_cast<int64_t>(encoder.size()) <= limits_.max_seqs,
        "a step exceeds the sizes fixed at start");

  batch.decode_only = rows == own_seqs;  // a sequence of a step has rows
  used_ = 0;
  describe(decoder, 0, step, batch);
  batch.lengths = take(batch.rows);
  row_slots_ = take(batch.rows);
  batch.logits_rows = take(batch.logits);
  entries_ = take(4 * std::max(own_samples, bucket)).reshaped({std::max(own_samples, bucket), 4});
  int32_t *slots = host(row_slots_), *lengths = host(batch.lengths);
  for (const StepSequence& s : decoder) {
    slots = std::fill_n(slots, s.n_rows, s.slot);
    lengths = std::fill_n(lengths, s.n_rows, begun_[static_cast<size_t>(s.slot)]);
  }

  int32_t *logits_rows = host(batch.logits_rows), *entry = host(entries_), at = -1;
  last_row = -1;
  for (const SampleEntry& e : step.samples) {
    if (e.row != last_row) logits_rows[++at] = last_row = e.row;
    for (const int32_t value : {at, e.slot, e.position, e.target}) *entry++ = value;
  }
  for (int64_t i = own_samples; i < entries_.dim(0); ++i)
    for (const int32_t value : {-1, 0, 0, -1}) *entry++ = value;

  if (!encoder.empty()) {
    encoder_ = {};
    encoder_.rows = encoder_rows;
    encoder_.seqs = static_cast<int64_t>(encoder.size());
    describe(encoder, rows, step, encoder_);
    batch.encoder = &encoder_;
  }
  if (used_ > 0) backend_.copy_in(device_.view(DType::kI32, {used_}), host_.data());
  send_tables(decoder, tables_, batch);
  if (!encoder.empty()) send_tables(encoder, encoder_tables_, encoder_);
  return batch;
}

void StepTensors::send_tables(std::span<const StepSequence> sequences, std::vector<Table>& tables, BatchView& batch) {
  for (size_t g = 0; g < tables.size(); ++g)
    batch.cache[g].block_table = send_table(tables[g], static_cast<int64_t>(g), sequences, batch.seqs);
}

// Padding sequences have no rows; their rows of the table stay as they are.
Tensor StepTensors::send_table(Table& table, int64_t group, std::span<const StepSequence> sequences, int64_t seqs) {
  const Tensor whole = table.device.view(DType::kI32, {seqs, max_blocks_});
  int64_t width = 1;  // blocks of the longest sequence
  for (const StepSequence& s : sequences) {
    const int64_t tokens = fixed_[static_cast<size_t>(group)] ? encoder_tokens_[static_cast<size_t>(s.slot)]
                                                              : int64_t{s.first_position} + s.n_rows;
    width = std::max(width, (tokens + limits_.block_size - 1) / limits_.block_size);
  }
  rows_of_table_.clear();
  for (const StepSequence& s : sequences) {
    const int32_t* blocks = &block(group, s.slot, 0);
    rows_of_table_.insert(rows_of_table_.end(), blocks, blocks + width);
  }
  if (rows_of_table_.empty() || (width == table.sent_width && rows_of_table_ == table.sent)) return whole;
  backend_.copy_in(whole.rows(0, static_cast<int64_t>(sequences.size())).columns(0, width), rows_of_table_.data());
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
