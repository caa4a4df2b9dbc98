// SPDX-License-Identifier: Apache-2.0
// A Step: what all ranks do next. Plain data decided by the leader alone and replayed by every rank in order.
// Vectors keep their capacity, so that a reused Step allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sample/sampler.h"

namespace sluice {

// What a rank does with a sequence's rows. Encode is for encoder prompts, which enter one step whole, behind the rows
// of all other sequences. Their K and V go to the cache group that belongs to the sequence.
enum class Phase : uint8_t { kEncode, kPrefill, kDecode };

struct StepSequence {
  int32_t slot;       // resident slot of the sequence: block tables, sampling state, last token
  int32_t first_row;  // rows of Step::tokens
  int32_t n_rows;
  int32_t first_position;  // position of the first row; its K and V go to cache index first_position
  Phase phase;
};

// Block `index` of the slot's table in cache group `group` is now `block`.
struct BlockDelta {
  int32_t slot, group, index, block;
};

struct BlockCopy {
  int32_t group, from, to;
};

// One draw or score. Several entries may name one row: forked choices sample from the same logits.
struct SampleEntry {
  int32_t row;       // of Step::tokens; its logits are wanted
  int32_t slot;      // whose parameters and history apply, and whose last token it becomes
  int32_t position;  // of the new token in the sequence; keys the random numbers
  // kDraw: sample; >= 0: only report this token's log probability; kCandidates - k: report the kMaxTopLogprobs best
  // tokens from rank k * kMaxTopLogprobs on, with their log probabilities after all processors.
  int32_t target;
  static constexpr int32_t kDraw = -1, kCandidates = -2;
};

// A slot gets a new tenant. history_begin .. history_begin + n_history index Step::history.
struct SlotInit {
  int32_t slot;
  int32_t history_begin, n_history;  // empty unless the parameters need a history
  int32_t n_output;                  // the last n_output of them were generated (after preemption)
  SamplingParams params;
  int32_t n_encoder = 0;  // tokens of its encoder prompt
  int32_t length = 0;     // tokens that the sequence is begun with: some models rotate positions by it
};

struct Step {
  static constexpr uint32_t kVersion = 3;
  uint64_t id = 0;              // 1, 2, 3, ...
  bool shutdown = false;        // leave after this step; nothing else is set
  std::vector<SlotInit> inits;  // applied first
  std::vector<int32_t> history;
  std::vector<BlockDelta> tables;  // then these
  std::vector<BlockCopy> copies;   // then these, before any row is computed
  std::vector<StepSequence> sequences;
  std::vector<int32_t> tokens;       // one per row; -1 means "the token this slot sampled last"
  std::vector<SampleEntry> samples;  // in the order of StepResult::tokens

  void clear();
  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
};

// Bytes for the control plane, appended to `out`; the format starts with kVersion.
void serialise(const Step& step, std::vector<std::byte>& out);
// Throws Error when the bytes are not a Step of this version.
void deserialise(std::span<const std::byte> bytes, Step& step);

struct StepResult {
  uint64_t id = 0;
  std::vector<SampledToken> tokens;  // one per Step::samples entry
};

}  // namespace sluice
