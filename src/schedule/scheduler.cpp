// SPDX-License-Identifier: Apache-2.0
#include "schedule/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

bool holds(const std::vector<int32_t>& ids, int32_t id) { return std::ranges::find(ids, id) != ids.end(); }

}  // namespace

void Scheduler::insert(std::vector<Sequence*>& list, Sequence* s) {
  list.insert(std::ranges::upper_bound(list, s->id, {}, &Sequence::id), s);
}

void Scheduler::erase(std::vector<Sequence*>& list, Sequence* s) { list.erase(std::ranges::find(list, s)); }

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), caching_(options.prefix_cache), depth_(static_cast<uint64_t>(std::max(2, options.stages))) {
  check(!options.groups.empty() && options.block_size > 0 && options.token_budget > 0 && options.max_seqs > 0 &&
            options.max_samples > 0 && options.max_running > 0 && options.stages > 0,
        "the scheduler needs positive sizes");
  check(!options.groups.front().fixed, "the first cache group grows with the sequence");
  for (const auto& group : options.groups) {
    pools_.emplace_back(group.blocks, options.block_size);
    if (group.fixed) caching_ = false;
  }
  for (auto slot = static_cast<int32_t>(options.max_running); slot-- > 0;) free_slots_.push_back(slot);
  records_.resize(depth_);
  const auto n = static_cast<size_t>(options.max_running);
  for (auto* list : {&running_, &leaving_, &order_}) list->reserve(2 * n);
  for (Record& record : records_) record.draws.reserve(static_cast<size_t>(options.max_samples));
  held_.reserve(4 * n);
}

int64_t Scheduler::max_tokens(int64_t copies) const {
  int64_t most = INT32_MAX;
  for (size_t g = 0; g < pools_.size(); ++g) {
    const int64_t window = options_.groups[g].window, blocks = pools_[g].blocks() / copies;
    if (options_.groups[g].fixed) continue;
    // A window's blocks of all unfinished steps, which retire in time, are not counted: one step must fit.
    const int64_t enough = (window + options_.token_budget) / options_.block_size + 2;
    if (window == 0 || blocks < enough) most = std::min(most, blocks * options_.block_size);
  }
  return most;
}

int64_t Scheduler::max_encoder(int64_t copies) const {
  int64_t most = 0;
  for (size_t g = 0; g < pools_.size(); ++g)
    if (options_.groups[g].fixed)
      most = std::min(options_.encode_budget, pools_[g].blocks() / copies * options_.block_size);
  return most;
}

SchedulerCounts Scheduler::counts() const {
  SchedulerCounts c;
  c.running = static_cast<int64_t>(running_.size());
  c.waiting = static_cast<int64_t>(sequences_.size()) - c.running;
  for (const BlockPool& pool : pools_) {
    c.blocks += pool.blocks();
    c.blocks_used += pool.blocks() - pool.available();
  }
  c.preemptions = preemptions_;
  return c;
}

Sequence& Scheduler::make_sequence() {
  if (unused_.empty()) {
    storage_.push_back(std::make_unique<Sequence>());
    unused_.push_back(storage_.back().get());
    storage_.back()->tables.resize(pools_.size());
  }
  Sequence& s = *unused_.back();
  unused_.pop_back();
  std::vector<Sequence::Table> tables = std::move(s.tables);
  std::vector<int32_t> tokens = std::move(s.tokens);
  tokens.clear();
  s = Sequence{};
  s.tables = std::move(tables);
  s.tokens = std::move(tokens);
  s.id = ++last_id_;
  sequences_.emplace(s.id, &s);
  return s;
}

SequenceId Scheduler::add(SequenceSpec spec, std::span<const uint64_t> tags) {
  const auto n_prompt = static_cast<int32_t>(spec.prompt.size());
  const auto total = static_cast<size_t>(n_prompt) + static_cast<size_t>(spec.max_new_tokens);
  check(n_prompt > 0 && spec.max_new_tokens > 0 && !tags.empty() && static_cast<int64_t>(total) <= max_tokens() &&
            static_cast<int64_t>(spec.encoder.size()) <= max_encoder() && spec.encoder.empty() == (max_encoder() == 0),
        "a sequence that cannot run was added");
  Sequence& first = make_sequence();
  first.tag = tags[0];
  first.n_prompt = n_prompt;
  first.tokens.reserve(total);
  first.tokens.assign(spec.prompt.begin(), spec.prompt.end());
  spec.prompt = {};
  first.spec = std::move(spec);
  if (first.spec.beams.width > 1) make_beams(first, tags);
  for (size_t i = 1; i < tags.size() && first.group == nullptr; ++i) {
    Sequence& s = make_sequence();
    s.tag = tags[i];
    s.n_prompt = n_prompt;
    s.tokens.reserve(total);
    s.tokens = first.tokens;
    s.spec = first.spec;
    s.spec.sampling.choice += static_cast<int32_t>(i);
    s.spec.prompt_scores = false;
    s.state = Sequence::State::kForking;
    s.parent = &first;
    first.forks.push_back(&s);
  }
  for (Sequence::Table& table : first.tables)
    table.blocks.reserve(total / static_cast<size_t>(options_.block_size) + 1);
  waiting_.push_back(&first);
  return first.id;
}

void Scheduler::finish(SequenceId id) {
  if (const auto it = sequences_.find(id); it != sequences_.end()) end(*it->second);
}

bool Scheduler::schedule(Step& step) {
  started_.clear();
  if (!can_schedule()) return false;
  step.clear();
  step.id = next_step_;
  records_[next_step_ % depth_].id = next_step_;
  records_[next_step_ % depth_].draws.clear();
  room_ = {options_.token_budget, options_.max_seqs, options_.max_samples, options_.encode_budget};
  blocked_ = false;
  admitting_ = true;

  schedule_decodes(step);
  decode_rows_ = step.rows();
  if (decode_rows_ > 0 && options_.enough_rows > 0) room_.rows = std::min(room_.rows, 2 * options_.enough_rows);
  schedule_prefills(step);
  admit_waiting(step);
  if (step.sequences.empty() && !admitting_ && next_step_ == retired_ + 1) {  // the last that ran gave itself up
    admitting_ = true;
    blocked_ = false;
    admit_waiting(step);
  }
  // Beams that wait for others of their search hold blocks that those need: the youngest search begins again.
  while (step.sequences.empty() && next_step_ == retired_ + 1 && !running_.empty() && !waiting_.empty()) {
    preempt(*running_.back());
    admitting_ = true;
    blocked_ = false;
    admit_waiting(step);
  }
  if (step.sequences.empty()) return false;

  emit_copies(step);
  // Later steps may read what this one writes.
  for (Sequence* s : running_)
    if (s->last_step == step.id) enter_cache(*s);
  ++next_step_;
  return true;
}

void Scheduler::schedule_decodes(Step& step) {
  // Everybody's turn in a circle, so that a budget below the number of decodes starves nobody.
  const auto first = std::ranges::upper_bound(running_, turn_, {}, &Sequence::id);
  order_.assign(first, running_.end());
  order_.insert(order_.end(), running_.begin(), first);
  int64_t share = options_.max_seqs;
  if (options_.stages > 1) {
    const int64_t n = std::ranges::count_if(order_, [](Sequence* s) { return s->decoding && !s->all_drawn(); }) +
                      std::ranges::count_if(order_, [](Sequence* s) { return s->pending > 0 && s->all_drawn(); });
    share = (n + options_.stages - 1) / options_.stages;
  }
  for (Sequence* s : order_) {
    if (room_.rows == 0 || room_.seqs == 0 || room_.samples == 0 || share == 0) break;
    if (s->state != Sequence::State::kRunning || !s->decoding || s->all_drawn()) continue;
    if (s->pending > 0 && (options_.stages > 1 || s->spec.host_first)) continue;
    if (s->group != nullptr && s->n_computed == static_cast<int32_t>(s->tokens.size())) continue;  // others lag behind
    if (room_.samples < s->draws()) break;
    if (options_.recomputes && varies(s->n_computed + 1) && !varies(s->length)) {
      if (s->pending == 0) give_up(*s);  // comes back with all its tokens, of which there are now too many
      continue;
    }
    leave_window(*s);
    if (!reserve(*s, s->n_computed + 1, step)) continue;
    add_rows(*s, 1, Phase::kDecode, step);
    add_draws(*s, static_cast<int32_t>(step.rows()) - 1, step);
    turn_ = s->id;
    --share;
  }
}

bool Scheduler::has_enough(const Step& step) const {
  return options_.enough_rows > 0 && step.rows() - decode_rows_ >= options_.enough_rows;
}

void Scheduler::schedule_prefills(Step& step) {
  order_.assign(running_.begin(), running_.end());
  // Encoder prompts last.
  for (const bool encoding : {false, true}) {
    for (Sequence* s : order_) {
      const bool ready = s->spec.encoder.empty() || s->encoded;
      if (s->state != Sequence::State::kRunning || s->decoding || s->last_step == step.id || ready == encoding)
        continue;
      if (ready) {
        if (has_enough(step)) continue;
        add_chunk(*s, step);
      } else {
        add_encoder(*s, step);
      }
    }
  }
}

void Scheduler::admit_waiting(Step& step) {
  while (admitting_ && !waiting_.empty() && !blocked_ && !has_enough(step) && room_.rows > 0 && room_.seqs > 0 &&
         room_.samples > 0) {
    // Somebody preempted comes back before anybody younger starts.
    for (const Sequence* s : leaving_)
      if (s->state == Sequence::State::kPreempted) return;
    if (free_slots_.empty()) return;
    if (static_cast<int64_t>(waiting_.front()->spec.encoder.size()) > room_.encode_rows) return;
    if (!admit(*waiting_.front(), step)) return;
  }
}

bool Scheduler::admit(Sequence& s, Step& step) {
  const auto known = static_cast<int32_t>(s.tokens.size());
  s.length = options_.recomputes && varies(known) ? known : s.n_prompt;
  const bool alike = !varies(s.length) || options_.recomputes;
  if (varies(s.length))
    for (Sequence::Table& table : s.tables) table.last_cached = BlockPool::kOtherRoot;
  const int32_t hits = caching_ && alike && !s.spec.prompt_scores ? take_hits(s) : 0;
  // Beams wait for each other: a search starts when all of it fits.
  int64_t beams = 1, beside = static_cast<int64_t>(running_.size());
  if (s.group != nullptr) {
    beams = std::ranges::count(s.group->members, Sequence::State::kWaiting, &Sequence::state);
    beside -= std::ranges::count(s.group->members, Sequence::State::kRunning, &Sequence::state);
  }
  const auto put_back = [&] {
    drop_blocks(s);
    s.n_computed = 0;
    return false;
  };
  if (static_cast<int64_t>(free_slots_.size()) < beams) return put_back();
  s.n_computed = hits * static_cast<int32_t>(options_.block_size);
  leave_window(s);
  for (size_t g = 0; g < pools_.size(); ++g) {
    // Room for the whole prompt, and for everybody's next block: a new sequence should not be preempted at once.
    int64_t tokens = static_cast<int64_t>(s.tokens.size()) + 1;
    if (const int64_t window = options_.groups[g].window; window > 0)
      tokens = std::min(tokens, window + options_.token_budget + options_.block_size);
    const int64_t spare = options_.groups[g].fixed ? 0 : beside, found = hits - s.tables[g].n_left;
    if (pools_[g].available() < beams * std::min(needed(s, g, tokens), pools_[g].blocks()) - found + spare)
      return put_back();
  }
  waiting_.erase(waiting_.begin());
  insert(running_, &s);
  s.state = Sequence::State::kRunning;
  s.slot = free_slots_.back();
  free_slots_.pop_back();
  init_slot(s, step);
  if (!s.started) started_.push_back({s.tag, std::min(s.n_computed, s.n_prompt)});
  s.started = true;
  if (s.group != nullptr && std::exchange(s.group->given_up, false)) std::ranges::fill(s.group->offered, uint8_t{0});
  if (s.spec.encoder.empty()) {
    add_chunk(s, step);
  } else {
    add_encoder(s, step);
  }
  return true;
}

// The whole encoder prompt; the decoder's tokens follow in a later step.
void Scheduler::add_encoder(Sequence& s, Step& step) {
  const auto n = static_cast<int32_t>(s.spec.encoder.size());
  if (room_.seqs == 0 || n > room_.encode_rows || !reserve(s, 1, step)) return;
  step.sequences.push_back({s.slot, static_cast<int32_t>(step.rows()), n, 0, Phase::kEncode});
  step.tokens.insert(step.tokens.end(), s.spec.encoder.begin(), s.spec.encoder.end());
  s.encoded = true;
  s.last_step = step.id;
  room_.encode_rows -= n;
  --room_.seqs;
}

void Scheduler::init_slot(Sequence& s, Step& step) {
  SlotInit init{s.slot,          static_cast<int32_t>(step.history.size()),   0,       0,
                s.spec.sampling, static_cast<int32_t>(s.spec.encoder.size()), s.length};
  if (s.spec.sampling.needs_history()) {
    init.n_history = static_cast<int32_t>(s.tokens.size());
    init.n_output = s.n_output();
    step.history.insert(step.history.end(), s.tokens.begin(), s.tokens.end());
  }
  step.inits.push_back(std::move(init));
  for (size_t g = 0; g < pools_.size(); ++g)
    for (size_t i = 0; i < s.tables[g].blocks.size(); ++i)
      if (const int32_t block = s.tables[g].blocks[i]; block >= 0)
        step.tables.push_back({s.slot, static_cast<int32_t>(g), static_cast<int32_t>(i), block});
}

// The next rows of a known text; with the last of them the first draw, for all choices.
void Scheduler::add_chunk(Sequence& s, Step& step) {
  const auto known = static_cast<int64_t>(s.tokens.size());
  int64_t n = std::min(room_.rows, known - s.n_computed);
  const bool scoring = s.spec.prompt_scores && s.n_scored + 1 < s.n_prompt;
  if (scoring) n = std::min(n, room_.samples);
  if (room_.seqs == 0 || n <= 0) return;
  const int64_t at_the_end = s.draws() + (scoring ? n - 1 : 0);  // draws, and scores of the rows before
  if (s.n_computed + n == known && room_.samples < at_the_end && --n == 0) return;
  leave_window(s);
  if (!reserve(s, s.n_computed + n, step)) return;

  const int32_t begin = s.n_computed, first_row = static_cast<int32_t>(step.rows());
  add_rows(s, static_cast<int32_t>(n), Phase::kPrefill, step);
  if (scoring)
    for (int32_t i = std::max(begin, s.n_scored); i < s.n_computed && i + 1 < s.n_prompt; ++i, ++s.n_scored)
      add_draw(s, first_row + i - begin, i + 1, s.tokens[static_cast<size_t>(i) + 1], step);
  if (s.n_computed < known) return;
  s.decoding = true;
  const auto row = static_cast<int32_t>(step.rows()) - 1;
  add_draws(s, row, step);
  fork_choices(s, row, step);
}

void Scheduler::add_rows(Sequence& s, int32_t n, Phase phase, Step& step) {
  if (std::exchange(s.renewed, false)) init_slot(s, step);
  step.sequences.push_back({s.slot, static_cast<int32_t>(step.rows()), n, s.n_computed, phase});
  for (int32_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(s.n_computed + i);
    step.tokens.push_back(at < s.tokens.size() ? s.tokens[at] : -1);
  }
  s.n_computed += n;
  s.last_step = step.id;
  room_.rows -= n;
  --room_.seqs;
}

void Scheduler::add_draw(Sequence& s, int32_t row, int32_t position, int32_t target, Step& step) {
  step.samples.push_back({row, s.slot, position, target});
  records_[step.id % depth_].draws.push_back({&s, position, target});
  s.last_step = step.id;
  if (target < 0) ++s.pending;
  --room_.samples;
}

void Scheduler::fork_choices(Sequence& parent, int32_t row, Step& step) {
  for (Sequence* child : parent.forks) {
    child->parent = nullptr;
    if (fork(parent, *child, step)) {
      add_draws(*child, row, step);
    } else {  // computes the prompt by itself, mostly from the prefix cache
      child->state = Sequence::State::kWaiting;
      insert(waiting_, child);
    }
  }
  parent.forks.clear();
}

bool Scheduler::fork(Sequence& parent, Sequence& child, Step& step) {
  if (blocked_ || free_slots_.empty() || room_.samples == 0 || parent.n_computed != parent.n_prompt) return false;
  if (!inherit(child, parent.tables, parent.n_computed % options_.block_size != 0, step.id)) return false;
  child.slot = free_slots_.back();
  free_slots_.pop_back();
  child.n_computed = parent.n_computed;
  child.encoded = parent.encoded;
  child.length = parent.length;
  child.decoding = child.started = true;
  child.state = Sequence::State::kRunning;
  insert(running_, &child);
  init_slot(child, step);
  return true;
}

void Scheduler::complete(const StepResult& result, std::vector<TokenEvent>& events) {
  Record& record = records_[(retired_ + 1) % depth_];
  beam_answers_.clear();
  check(retired_ + 1 < next_step_ && result.id == record.id, "a step's result came out of order");
  check(result.tokens.size() == record.draws.size(), "a step's result has the wrong number of tokens");
  for (size_t i = 0; i < record.draws.size(); ++i) {
    const Draw& draw = record.draws[i];
    Sequence& s = *draw.sequence;
    if (draw.target < 0) --s.pending;
    if (s.state == Sequence::State::kEnded) continue;
    if (draw.target <= SampleEntry::kCandidates) {
      offer(s, draw, result.tokens[i]);
      continue;
    }
    SequenceEnd why = SequenceEnd::kNone;
    if (draw.target < 0) {
      const int32_t token = result.tokens[i].token;
      s.tokens.push_back(token);
      if (holds(s.spec.eos_ids, token)) {
        why = SequenceEnd::kEos;
      } else if (holds(s.spec.stop_ids, token)) {
        why = SequenceEnd::kStopId;
      } else if (s.n_output() == s.spec.max_new_tokens) {
        why = SequenceEnd::kLength;
      }
    }
    events.push_back({s.tag, static_cast<int32_t>(i), draw.position, draw.target >= 0, why});
    if (why != SequenceEnd::kNone) {
      end(s);
    } else if (s.state == Sequence::State::kRunning) {
      enter_cache(s);
    }
  }
  ++retired_;
  advance_groups(record);
  retire();
}

void Scheduler::retire() {
  std::erase_if(held_, [&](const Held& held) {
    if (held.step > retired_) return false;
    pools_[static_cast<size_t>(held.group)].release(held.block);
    return true;
  });
  std::erase_if(leaving_, [&](Sequence* s) {
    if (s->last_step > retired_) return false;
    settle(*s);
    return true;
  });
}

void Scheduler::preempt(Sequence& s) {
  ++preemptions_;
  give_up(s);
}

void Scheduler::give_up(Sequence& s) {
  const auto leave_alone = [this](Sequence& one) {
    if (one.state != Sequence::State::kRunning) return;
    erase(running_, &one);
    one.state = Sequence::State::kPreempted;
    leave(one);
  };
  if (s.group == nullptr) return leave_alone(s);
  s.group->given_up = true;
  for (Sequence* beam : s.group->members) leave_alone(*beam);
}

void Scheduler::end(Sequence& s) {
  using State = Sequence::State;
  if (s.group != nullptr) return end_group(*s.group);
  sequences_.erase(s.id);
  for (Sequence* child : s.forks) {
    child->parent = nullptr;
    child->state = State::kWaiting;
    insert(waiting_, child);
  }
  s.forks.clear();
  const State was = s.state;
  s.state = State::kEnded;
  if (was == State::kPreempted) return;  // already leaving
  if (was == State::kForking && s.parent != nullptr) erase(s.parent->forks, &s);
  if (was == State::kWaiting) erase(waiting_, &s);
  if (was == State::kRunning) erase(running_, &s);
  leave(s);
}

void Scheduler::leave(Sequence& s) {
  if (s.last_step > retired_) {
    leaving_.push_back(&s);
  } else {
    settle(s);
  }
}

// No unfinished step names the sequence any more.
void Scheduler::settle(Sequence& s) {
  drop_blocks(s);
  if (s.slot >= 0) free_slots_.push_back(s.slot);
  s.slot = -1;
  s.n_computed = 0;
  s.encoded = s.decoding = s.renewed = false;
  drop_idle_copies();
  if (s.state == Sequence::State::kEnded) {
    unused_.push_back(&s);
  } else {
    s.state = Sequence::State::kWaiting;
    insert(waiting_, &s);
  }
}

}  // namespace sluice
