// SPDX-License-Identifier: Apache-2.0
// A model without arithmetic: the next token is a hash of every (position, token) that the cache holds for the
// sequence, of the slot's parameters and of its penalty history. A wrong block, copy, slot or history changes it.
#pragma once

#include <map>
#include <vector>

#include "schedule/scheduler.h"

namespace sluice {

struct Hash {
  uint64_t value = 0x243f6a8885a308d3u;
  void add(uint64_t x) {
    value = (value ^ x) * 0x9fb21c651e98df25u;
    value ^= value >> 29;
  }
};

constexpr int32_t kReferenceVocab = 40;

inline int32_t draw(Hash seen, const SamplingParams& p, int32_t position) {
  seen.add(p.seed);
  seen.add(static_cast<uint64_t>(p.choice));
  seen.add(static_cast<uint64_t>(position));
  return static_cast<int32_t>(seen.value % kReferenceVocab);
}

// The tokens that a beam may go on with, best first; a place of the vocabulary has no chance at all.
inline std::vector<std::pair<int32_t, float>> candidates(Hash seen, int32_t position) {
  std::vector<std::pair<int32_t, float>> out;
  for (int32_t id = 0; id < kReferenceVocab - 1; ++id) {
    Hash h = seen;
    h.add(static_cast<uint64_t>(id));
    h.add(static_cast<uint64_t>(position));
    out.emplace_back(id, -static_cast<float>(h.value % 5000) / 1000.0f);
  }
  std::ranges::stable_sort(out, std::ranges::greater{}, &std::pair<int32_t, float>::second);
  return out;
}

inline float score(Hash seen, int32_t target) {
  seen.add(static_cast<uint64_t>(target) + 1000);
  return static_cast<float>(seen.value % 1000000);
}

constexpr int64_t kEncoderGroup = -1;  // in place of a window: the group holds the encoder's prompt

// What a query at `position` sees in groups of the given windows (0: all).
inline void see(Hash& h, std::span<const int32_t> tokens, int32_t position, std::span<const int64_t> windows,
                std::span<const int32_t> encoder) {
  for (const int64_t window : windows) {
    if (window == kEncoderGroup) {
      for (size_t i = 0; i < encoder.size(); ++i) {
        h.add(i);
        h.add(static_cast<uint64_t>(encoder[i]));
      }
      continue;
    }
    for (int64_t i = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0; i <= position; ++i) {
      h.add(static_cast<uint64_t>(i));
      h.add(static_cast<uint64_t>(tokens[static_cast<size_t>(i)]));
    }
  }
}

inline void add_history(Hash& h, const SequenceSpec& spec, std::span<const int32_t> tokens) {
  if (!spec.sampling.needs_history()) return;
  for (size_t i = 0; i < tokens.size(); ++i)
    h.add(static_cast<uint64_t>(tokens[i]) + (i < spec.prompt.size() ? 0 : 5000));
}

// Prompt and output of one choice, computed token by token without any scheduler.
inline std::vector<int32_t> reference_tokens(const SequenceSpec& spec, int32_t choice,
                                             std::span<const int64_t> windows) {
  std::vector<int32_t> tokens = spec.prompt;
  SamplingParams params = spec.sampling;
  params.choice += choice;
  for (int32_t n = 0; n < spec.max_new_tokens; ++n) {
    Hash h;
    const auto position = static_cast<int32_t>(tokens.size());
    see(h, tokens, position - 1, windows, spec.encoder);
    add_history(h, spec, tokens);
    tokens.push_back(draw(h, params, position));
    const auto is = [&](const std::vector<int32_t>& ids) { return std::ranges::count(ids, tokens.back()) > 0; };
    if (is(spec.eos_ids) || is(spec.stop_ids)) break;
  }
  return tokens;
}

// The answers of a search whose beams are computed from their whole texts each time.
inline std::vector<BeamAnswer> reference_beams(const SequenceSpec& spec, size_t n, std::span<const int64_t> windows) {
  BeamSearch search(spec.beams, {spec.eos_ids, spec.stop_ids, spec.max_new_tokens});
  std::vector<std::vector<int32_t>> texts(1, spec.prompt);
  for (;;) {
    for (size_t beam = 0; beam < texts.size(); ++beam) {
      Hash h;
      const auto position = static_cast<int32_t>(texts[beam].size());
      see(h, texts[beam], position - 1, windows, spec.encoder);
      add_history(h, spec, texts[beam]);
      for (const auto& [id, log_prob] : candidates(h, position))
        search.offer(static_cast<int32_t>(beam), {&id, 1}, {&log_prob, 1});
    }
    if (!search.advance()) return search.answers(n);
    std::vector<std::vector<int32_t>> next;
    for (const BeamSearch::Next& go : search.next()) {
      next.push_back(texts[static_cast<size_t>(go.parent)]);
      next.back().push_back(go.token);
    }
    texts = std::move(next);
  }
}

inline float reference_score(const SequenceSpec& spec, const std::vector<int32_t>& tokens, int32_t position,
                             std::span<const int64_t> windows) {
  Hash h;
  see(h, tokens, position - 1, windows, spec.encoder);
  return score(h, tokens[static_cast<size_t>(position)]);
}

class ReferenceExecutor {
 public:
  ReferenceExecutor(const SchedulerOptions& options) : options_(options) {
    for (const auto& group : options.groups) {
      windows.push_back(group.fixed ? kEncoderGroup : group.window);
      memory_.emplace_back(static_cast<size_t>(group.blocks * options.block_size));
    }
    tables_.resize(static_cast<size_t>(options.max_running), std::vector<std::map<int32_t, int32_t>>(windows.size()));
    slots_.resize(static_cast<size_t>(options.max_running));
  }

  // Returns false when the cache does not hold what a row needs.
  bool run(const Step& step, StepResult& result) {
    bool sound = true;
    for (const SlotInit& init : step.inits) {
      Slot& slot = slots_[static_cast<size_t>(init.slot)];
      slot.params = init.params;
      slot.n_encoder = init.n_encoder;
      slot.history.clear();
      for (int32_t i = 0; i < init.n_history; ++i)
        slot.history.push_back(step.history[static_cast<size_t>(init.history_begin + i)] +
                               (i < init.n_history - init.n_output ? 0 : 5000));
      for (auto& table : tables_[static_cast<size_t>(init.slot)]) table.clear();
    }
    for (const BlockDelta& d : step.tables)
      tables_[static_cast<size_t>(d.slot)][static_cast<size_t>(d.group)][d.index] = d.block;
    const auto bs = static_cast<size_t>(options_.block_size);
    for (const BlockCopy& c : step.copies)
      for (size_t i = 0; i < bs; ++i) {
        auto& cells = memory_[static_cast<size_t>(c.group)];
        cells[static_cast<size_t>(c.to) * bs + i] = cells[static_cast<size_t>(c.from) * bs + i];
      }
    std::vector<std::pair<int32_t, int32_t>> rows(static_cast<size_t>(step.rows()));  // slot, position
    for (const StepSequence& s : step.sequences)
      for (int32_t i = 0; i < s.n_rows; ++i) {
        const auto row = static_cast<size_t>(s.first_row + i);
        const int32_t token = step.tokens[row] >= 0 ? step.tokens[row] : slots_[static_cast<size_t>(s.slot)].last;
        rows[row] = {s.slot, s.first_position + i};
        for (size_t g = 0; g < windows.size(); ++g) {
          if ((windows[g] == kEncoderGroup) != (s.phase == Phase::kEncode)) continue;
          Cell* cell = at(g, s.slot, s.first_position + i);
          if (!cell) return false;
          *cell = {s.first_position + i, token};
        }
      }
    result.id = step.id;
    result.tokens.assign(step.samples.size(), {});
    for (size_t i = 0; i < step.samples.size(); ++i) {
      const SampleEntry& e = step.samples[i];
      const auto [row_slot, position] = rows[static_cast<size_t>(e.row)];
      Hash h;
      for (size_t g = 0; g < windows.size(); ++g) {
        const bool fixed = windows[g] == kEncoderGroup;
        const int64_t last = fixed ? slots_[static_cast<size_t>(row_slot)].n_encoder - 1 : position;
        for (int64_t k = windows[g] > 0 ? std::max<int64_t>(0, position - windows[g] + 1) : 0; k <= last; ++k) {
          const Cell* cell = at(g, row_slot, static_cast<int32_t>(k));
          if (!cell || cell->position != k) return false;
          h.add(static_cast<uint64_t>(cell->position));
          h.add(static_cast<uint64_t>(cell->token));
        }
      }
      Slot& slot = slots_[static_cast<size_t>(e.slot)];
      sound = sound && e.position == position + 1;
      if (e.target >= 0) {
        result.tokens[i].token = e.target;
        result.tokens[i].logprob = score(h, e.target);
        continue;
      }
      if (slot.params.needs_history())
        for (int32_t seen : slot.history) h.add(static_cast<uint64_t>(seen));
      if (e.target <= SampleEntry::kCandidates) {
        const auto best = candidates(h, e.position);
        SampledToken& out = result.tokens[i];
        const auto first = static_cast<size_t>((SampleEntry::kCandidates - e.target) * kMaxTopLogprobs);
        for (size_t k = first; k < best.size() && out.n_top < kMaxTopLogprobs; ++k) {
          out.top_ids[out.n_top] = best[k].first;
          out.top_logprobs[out.n_top++] = best[k].second;
        }
        continue;
      }
      slot.last = result.tokens[i].token = draw(h, slot.params, e.position);
      slot.history.push_back(slot.last + 5000);
    }
    return sound;
  }

  std::vector<int64_t> windows;  // [groups]

 private:
  struct Cell {
    int32_t position = -1, token = -1;
  };
  struct Slot {
    SamplingParams params;
    std::vector<int32_t> history;
    int32_t last = -1, n_encoder = 0;
  };
  Cell* at(size_t group, int32_t slot, int32_t position) {
    const auto& table = tables_[static_cast<size_t>(slot)][group];
    const auto it = table.find(static_cast<int32_t>(position / options_.block_size));
    if (it == table.end()) return nullptr;
    return &memory_[group][static_cast<size_t>(it->second * options_.block_size + position % options_.block_size)];
  }

  SchedulerOptions options_;
  std::vector<std::vector<Cell>> memory_;
  std::vector<std::vector<std::map<int32_t, int32_t>>> tables_;  // [slots][groups]
  std::vector<Slot> slots_;
};

}  // namespace sluice
