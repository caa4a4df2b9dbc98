// SPDX-License-Identifier: Apache-2.0
// One choice of one request as the scheduler sees it. Sequences belong to the Scheduler, which recycles them.
#pragma once

#include <cstdint>
#include <vector>

#include "sample/params.h"
#include "schedule/beams.h"
#include "schedule/block_pool.h"
#include "schedule/sequence_end.h"

namespace sluice {

using SequenceId = int64_t;  // 1, 2, 3, ... in order of arrival; the age of a sequence

// What is asked for. Choices of one request share everything but SamplingParams::choice.
struct SequenceSpec {
  std::vector<int32_t> prompt;   // not empty
  std::vector<int32_t> encoder;  // prompt of the encoder, where the model has one; then `prompt` starts the decoder
  SamplingParams sampling;
  int32_t max_new_tokens = 0;     // > 0
  std::vector<int32_t> eos_ids;   // end the sequence; the id is its last token
  std::vector<int32_t> stop_ids;  // likewise, reported as kStopId
  bool prompt_scores = false;     // score every prompt token but the first; such a prompt takes no prefix-cache hits
  bool host_first = false;        // no token may be drawn before the leader has seen the one before it
  BeamParams beams;               // of a search: every beam is a sequence
};

struct BeamGroup;

struct Sequence {
  enum class State : uint8_t {
    kForking,    // waits for its parent's prompt to be computed, or for the first tokens of a search
    kWaiting,    // holds nothing
    kRunning,    // holds a slot and blocks
    kPreempted,  // gives up slot and blocks when its last step retires, then waits again
    kEnded,      // likewise, then is recycled
  };

  SequenceId id = 0;
  uint64_t tag = 0;  // the caller's
  SequenceSpec spec;
  State state = State::kWaiting;

  std::vector<int32_t> tokens;  // prompt, then the output whose value is known
  int32_t n_prompt = 0;
  int32_t n_computed = 0;  // rows of tokens that steps so far compute
  int32_t pending = 0;     // draws of unfinished steps
  int32_t n_scored = 0;    // prompt rows already scored
  bool encoded = false;    // a step computes, or computed, the encoder's prompt
  int32_t length = 0;      // tokens that it was begun with, as SlotInit says
  bool decoding = false;   // its next row is its newest token
  bool started = false;    // has been admitted before
  uint64_t last_step = 0;  // id of the last step that names it

  int32_t slot = -1;
  struct Table {
    std::vector<int32_t> blocks;                      // by position / block_size; -1: left the window
    int32_t n_left = 0;                               // leading blocks that left the window
    int32_t n_cached = 0;                             // leading blocks in the prefix cache,
    BlockPool::Entry last_cached = BlockPool::kRoot;  // the last of them
  };
  std::vector<Table> tables;  // [groups]

  Sequence* parent = nullptr;    // while kForking
  std::vector<Sequence*> forks;  // choices that wait for this prompt

  BeamGroup* group = nullptr;  // of a beam
  int32_t beam = 0;            // its place there
  bool renewed = false;        // its blocks are others than ranks know

  int32_t n_output() const { return static_cast<int32_t>(tokens.size()) - n_prompt; }
  bool all_drawn() const { return n_output() + pending >= spec.max_new_tokens; }
  // A beam's candidates come in several entries where one does not hold them.
  int32_t draws() const;
};

// The beams of one search. Each is computed as any sequence; when all have offered candidates they are chosen anew.
struct BeamGroup {
  BeamSearch search;
  std::vector<Sequence*> members;  // by beam; all but the first are kForking until the first tokens are known
  std::vector<uint8_t> offered;    // by beam
  std::vector<uint64_t> tags;      // of the answers
  bool given_up = false;           // since then no member has been admitted
};

}  // namespace sluice
