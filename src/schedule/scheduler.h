// SPDX-License-Identifier: Apache-2.0
// Decides what the next Step computes: continuous batching with chunked prefill under a token budget. Decodes come
// first, then prompts under way, then new prompts in order of arrival. When blocks run out the youngest sequence gives
// up its blocks and is recomputed later. Pure: no device, thread or clock; calls from one thread.
//
// Up to max(2, stages) steps are unfinished at a time. With one stage a sequence may be in two consecutive steps, the
// second with token -1; if the first turns out to end it, the second's draw is dropped. With several stages no draw
// waits for an unfinished step, and the decodes are divided evenly among the steps in flight. Blocks and slots are
// given back when the last step that names them has retired.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "schedule/block_pool.h"
#include "schedule/sequence.h"
#include "schedule/step.h"

namespace sluice {

struct SchedulerOptions {
  struct Group {
    int64_t blocks = 0;
    int64_t window = 0;  // keys that are needed; 0: all
    bool fixed = false;  // holds the encoder's prompt, whole from the start; the first group never is
  };
  std::vector<Group> groups;
  int64_t block_size = 16;
  int64_t token_budget = 512;  // rows of one step
  // Rows of prompts with which a step is as efficient as with more: it takes on no further prompt then, whose answer
  // would only keep those of the prompts before it waiting. Beside answers under way, whose next tokens wait for the
  // step, prompts get twice as many and no more. 0: no such number.
  int64_t enough_rows = 0;
  int64_t max_seqs = 0;     // sequences of one step
  int64_t max_samples = 0;  // draws and scores of one step
  int64_t max_running = 0;  // sequences that hold a slot
  int stages = 1;
  int64_t encode_budget = 0;  // rows of encoder prompts in one step, besides token_budget
  // Without effect when a group is fixed: what decoder tokens become depends on the encoder's prompt. A prefix counts
  // where every group still has all of its blocks, those that left a window too; a sequence keeps what its window
  // shows.
  bool prefix_cache = true;
  // Where it is not 0: the state of sequences begun with more tokens than this depends on how many those are.
  int64_t varies_beyond = 0;
  bool recomputes = false;  // It depends only on whether they are more; who grows beyond begins again.
};

// What became known about one sequence. `sample` indexes StepResult::tokens.
struct TokenEvent {
  uint64_t tag;
  int32_t sample;
  int32_t position;  // of the token in the sequence
  bool score;        // a prompt token was scored; otherwise the sequence has a new token
  SequenceEnd end;
};

struct StartEvent {
  uint64_t tag;
  int32_t cached_tokens;  // of the prompt, found in the prefix cache
};

struct SchedulerCounts {
  int64_t running = 0, waiting = 0;     // now; waiting includes choices that wait for their prompt
  int64_t blocks = 0, blocks_used = 0;  // now, all groups
  uint64_t preemptions = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // Prompt and output of one sequence that the blocks can hold `copies` times.
  int64_t max_tokens(int64_t copies = 1) const;
  // Encoder prompt of one sequence that a step and, `copies` times, the blocks can hold; 0: no encoder.
  int64_t max_encoder(int64_t copies = 1) const;
  int64_t max_beams(size_t n_ends) const;  // of one search whose answers end with any of so many tokens

  // One sequence per tag: the choices of one request, spec.sampling.choice and following. Returns the first's id; the
  // others' follow. prompt + max_new_tokens must not exceed max_tokens(). A search is one sequence per beam, of which
  // the first has an id to finish all by; its tags are those of its answers.
  SequenceId add(SequenceSpec spec, std::span<const uint64_t> tags);
  // Ends a sequence (cancelled, or its text is complete); it gets no more events. Ended and unknown ids are ignored.
  void finish(SequenceId id);

  // Fills the next step; false when nothing can run now or enough steps are unfinished.
  bool schedule(Step& step);
  // Sequences admitted for the first time by the last schedule().
  std::span<const StartEvent> started() const { return started_; }
  // Results arrive in step order. Appends to `events`, in the order of result.tokens.
  void complete(const StepResult& result, std::vector<TokenEvent>& events);
  // Of the searches that the last complete() ended; they have no events. May be swapped out.
  std::vector<BeamAnswer>& beam_answers() { return beam_answers_; }

  bool can_schedule() const { return next_step_ - retired_ - 1 < depth_; }  // fewer than the most steps are unfinished
  bool idle() const { return sequences_.empty() && next_step_ == retired_ + 1 && leaving_.empty(); }
  SchedulerCounts counts() const;
  const BlockPool& pool(int group) const { return pools_[static_cast<size_t>(group)]; }

 private:
  struct Draw {
    Sequence* sequence;
    int32_t position;
    int32_t target;
  };
  struct Record {  // of an unfinished step
    uint64_t id = 0;
    std::vector<Draw> draws;
  };
  struct Held {  // a reference to drop when `step` has retired
    int32_t group, block;
    uint64_t step;
  };
  struct PendingCopy {  // of a fork in `step`, for the step after; both blocks hold a reference
    BlockCopy copy;
    uint64_t step;
  };
  struct Room {
    int64_t rows, seqs, samples, encode_rows;
  };

  void schedule_decodes(Step& step);
  void schedule_prefills(Step& step);
  bool has_enough(const Step& step) const;
  void admit_waiting(Step& step);
  bool admit(Sequence& s, Step& step);
  void add_encoder(Sequence& s, Step& step);
  void add_chunk(Sequence& s, Step& step);
  void add_rows(Sequence& s, int32_t n, Phase phase, Step& step);
  void add_draw(Sequence& s, int32_t row, int32_t position, int32_t target, Step& step);
  void add_draws(Sequence& s, int32_t row, Step& step);
  void init_slot(Sequence& s, Step& step);
  bool varies(int64_t n_tokens) const { return options_.varies_beyond > 0 && n_tokens > options_.varies_beyond; }
  void fork_choices(Sequence& parent, int32_t row, Step& step);
  bool fork(Sequence& parent, Sequence& child, Step& step);

  void make_beams(Sequence& first, std::span<const uint64_t> tags);
  void offer(Sequence& s, const Draw& draw, const SampledToken& best);
  void advance_groups(const Record& record);
  void go_on(BeamGroup& group);
  void set_back(Sequence& s);
  void end_group(BeamGroup& group);

  bool reserve(Sequence& s, int64_t n_tokens, Step& step);
  bool fits(const Sequence& s, int64_t n_tokens) const;
  int64_t needed(int64_t n_tokens) const { return (n_tokens + options_.block_size - 1) / options_.block_size; }
  // Blocks that `s` needs in a group for its first n_tokens positions.
  int64_t needed(const Sequence& s, size_t group, int64_t n_tokens) const {
    return needed(options_.groups[group].fixed ? static_cast<int64_t>(s.spec.encoder.size()) : n_tokens);
  }
  void leave_window(Sequence& s);
  int32_t take_hits(Sequence& s);
  bool inherit(Sequence& child, const std::vector<Sequence::Table>& from, bool partial, uint64_t step);
  void drop_blocks(std::vector<Sequence::Table>& tables);
  void drop_blocks(Sequence& s) { drop_blocks(s.tables); }
  void enter_cache(Sequence& s);
  void emit_copies(Step& step);
  void drop_idle_copies();

  static void insert(std::vector<Sequence*>& list, Sequence* s);  // by id
  static void erase(std::vector<Sequence*>& list, Sequence* s);
  void preempt(Sequence& s);
  void give_up(Sequence& s);  // with all other beams of its search
  void end(Sequence& s);
  void leave(Sequence& s);
  void settle(Sequence& s);
  void retire();
  Sequence& make_sequence();

  SchedulerOptions options_;
  std::vector<BlockPool> pools_;  // [groups]
  bool caching_;
  uint64_t depth_;

  std::vector<std::unique_ptr<Sequence>> storage_;
  std::vector<Sequence*> unused_;
  std::unordered_map<SequenceId, Sequence*> sequences_;  // not ended
  std::vector<Sequence*> running_, waiting_;             // by id
  std::vector<Sequence*> leaving_;                       // preempted or ended, named by an unfinished step
  std::vector<Sequence*> order_;                         // scratch
  std::vector<int32_t> free_slots_;
  std::vector<PendingCopy> copies_;
  std::vector<Held> held_;
  std::vector<StartEvent> started_;
  std::vector<std::unique_ptr<BeamGroup>> groups_;
  // Scratch: what beams had before they were chosen anew, and which of the heirs keeps the last block.
  std::vector<std::vector<int32_t>> texts_;
  std::vector<std::vector<Sequence::Table>> tables_;
  std::vector<int32_t> keepers_;
  std::vector<BeamAnswer> beam_answers_;

  std::vector<Record> records_;  // [depth], by step id
  uint64_t next_step_ = 1, retired_ = 0;
  SequenceId last_id_ = 0, turn_ = 0;  // turn_: the last sequence that decoded
  Room room_{};
  bool blocked_ = false;     // somebody waits for blocks: nobody else takes one in this step
  bool admitting_ = true;    // nobody was preempted in this step
  int64_t decode_rows_ = 0;  // of this step
  uint64_t preemptions_ = 0;
};

}  // namespace sluice
