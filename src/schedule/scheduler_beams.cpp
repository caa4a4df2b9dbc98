// SPDX-License-Identifier: Apache-2.0
// Beam search in the scheduler. A beam is a sequence that draws candidates instead of a token; it runs, waits and is
// preempted as any other, but only the whole search gives its blocks up. When all beams have offered candidates, each
// takes over the text and the blocks of the beam that it continues. No step is unfinished then that names one of them.
#include <algorithm>

#include "base/error.h"
#include "schedule/scheduler.h"

namespace sluice {
namespace {

int32_t entries_of(int32_t candidates) { return (candidates + kMaxTopLogprobs - 1) / kMaxTopLogprobs; }

}  // namespace

int32_t Sequence::draws() const { return group != nullptr ? entries_of(group->search.candidates()) : 1; }

int64_t Scheduler::max_beams(size_t n_ends) const {
  int64_t most = options_.max_running;
  while (most > 1 && entries_of(BeamSearch::candidates(static_cast<int32_t>(most), n_ends)) > options_.max_samples)
    --most;
  return most;
}

void Scheduler::make_beams(Sequence& first, std::span<const uint64_t> tags) {
  const int32_t width = first.spec.beams.width;
  check(width <= max_beams(first.spec.eos_ids.size() + first.spec.stop_ids.size()) &&
            static_cast<int64_t>(tags.size()) <= width &&
            first.n_prompt + first.spec.max_new_tokens <= max_tokens(width),
        "a beam search that cannot run was added");
  BeamSearch::Ends ends{first.spec.eos_ids, first.spec.stop_ids, first.spec.max_new_tokens};
  groups_.push_back(std::make_unique<BeamGroup>(BeamGroup{
      BeamSearch(first.spec.beams, std::move(ends)), {}, {}, std::vector<uint64_t>(tags.begin(), tags.end())}));
  BeamGroup& group = *groups_.back();
  group.offered.resize(static_cast<size_t>(width));
  first.spec.host_first = true;
  for (int32_t beam = 0; beam < width; ++beam) {
    Sequence& s = beam == 0 ? first : make_sequence();
    if (beam > 0) {
      s.tag = first.tag;
      s.n_prompt = first.n_prompt;
      s.tokens.reserve(first.tokens.capacity());
      s.spec = first.spec;
      s.spec.prompt_scores = false;
      s.state = Sequence::State::kForking;
    }
    s.group = &group;
    s.beam = beam;
    group.members.push_back(&s);
  }
}

void Scheduler::add_draws(Sequence& s, int32_t row, Step& step) {
  if (s.group == nullptr) return add_draw(s, row, s.n_computed, SampleEntry::kDraw, step);
  for (int32_t i = 0; i < s.draws(); ++i) add_draw(s, row, s.n_computed, SampleEntry::kCandidates - i, step);
}

void Scheduler::offer(Sequence& s, const Draw& draw, const SampledToken& best) {
  BeamGroup& group = *s.group;
  const int32_t entry = SampleEntry::kCandidates - draw.target;
  if (entry == 0) group.search.restart(s.beam);
  const auto n = static_cast<size_t>(best.n_top);
  group.search.offer(s.beam, {best.top_ids, n}, {best.top_logprobs, n});
  if (entry + 1 == s.draws()) group.offered[static_cast<size_t>(s.beam)] = 1;
}

void Scheduler::advance_groups(const Record& record) {
  for (const Draw& draw : record.draws) {
    BeamGroup* group = draw.sequence->group;
    if (group == nullptr || draw.target >= 0) continue;
    if (!std::ranges::all_of(group->members, [&](const Sequence* s) {
          return s->state == Sequence::State::kForking || group->offered[static_cast<size_t>(s->beam)] != 0;
        }))
      continue;
    std::ranges::fill(group->offered, uint8_t{0});
    if (group->search.advance()) {
      go_on(*group);
      continue;
    }
    std::vector<BeamAnswer> answers = group->search.answers(group->tags.size());
    check(answers.size() == group->tags.size(), "a beam search ended with too few answers");
    for (size_t i = 0; i < answers.size(); ++i) {
      answers[i].tag = group->tags[i];
      beam_answers_.push_back(std::move(answers[i]));
    }
    end_group(*group);
  }
}

void Scheduler::go_on(BeamGroup& group) {
  using State = Sequence::State;
  const std::span<const BeamSearch::Next> next = group.search.next();
  const size_t width = group.members.size();
  const Sequence& example = *group.members[static_cast<size_t>(next[0].parent)];
  const int32_t computed = example.n_computed, length = example.length;
  const bool running = example.state == State::kRunning, encoded = example.encoded;
  texts_.resize(std::max(texts_.size(), width));
  tables_.resize(std::max(tables_.size(), width));
  keepers_.assign(width, -1);
  for (size_t i = 0; i < width; ++i) {
    if (next[i].parent == static_cast<int32_t>(i)) keepers_[i] = static_cast<int32_t>(i);
    texts_[i].swap(group.members[i]->tokens);
  }
  for (size_t i = 0; i < width; ++i)
    if (int32_t& keeper = keepers_[static_cast<size_t>(next[i].parent)]; keeper < 0) keeper = static_cast<int32_t>(i);
  for (size_t i = 0; i < width; ++i) {
    Sequence& s = *group.members[i];
    const std::vector<int32_t>& text = texts_[static_cast<size_t>(next[i].parent)];
    s.tokens.assign(text.begin(), text.end());
    s.tokens.push_back(next[i].token);
  }
  if (!running) {  // given up meanwhile: nothing is held
    for (Sequence* s : group.members)
      if (s->state == State::kForking) set_back(*s);
    return;
  }
  for (size_t i = 0; i < width; ++i) {
    tables_[i].resize(pools_.size());
    tables_[i].swap(group.members[i]->tables);
    if (keepers_[i] < 0) drop_blocks(tables_[i]);
  }
  for (size_t i = 0; i < width; ++i) {
    Sequence& s = *group.members[i];
    const auto parent = static_cast<size_t>(next[i].parent);
    const bool copies = keepers_[parent] != static_cast<int32_t>(i) && computed % options_.block_size != 0;
    const bool fresh = s.slot < 0;
    if ((fresh && free_slots_.empty()) || !inherit(s, tables_[parent], copies, retired_)) {
      set_back(s);
      continue;
    }
    if (fresh) {
      s.slot = free_slots_.back();
      free_slots_.pop_back();
      s.state = State::kRunning;
      insert(running_, &s);
    }
    s.n_computed = computed;
    s.length = length;
    s.encoded = encoded;
    s.decoding = s.started = true;
    s.renewed = s.renewed || fresh || parent != i || s.spec.sampling.needs_history();
  }
  for (size_t i = 0; i < width; ++i)
    if (keepers_[i] >= 0) drop_blocks(tables_[i]);
}

// There is no room to take over blocks: the text is computed by itself later.
void Scheduler::set_back(Sequence& s) {
  if (s.state == Sequence::State::kRunning) erase(running_, &s);
  drop_blocks(s);
  if (s.slot >= 0) free_slots_.push_back(s.slot);
  s.slot = -1;
  s.n_computed = 0;
  s.encoded = s.decoding = s.renewed = false;
  s.started = true;  // with the search
  s.state = Sequence::State::kWaiting;
  insert(waiting_, &s);
}

void Scheduler::end_group(BeamGroup& group) {
  for (Sequence* s : group.members) s->group = nullptr;
  for (Sequence* s : group.members) end(*s);
  std::erase_if(groups_, [&](const auto& g) { return g.get() == &group; });
}

}  // namespace sluice
