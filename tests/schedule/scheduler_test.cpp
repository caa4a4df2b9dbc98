// SPDX-License-Identifier: Apache-2.0
#include "schedule/scheduler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <map>

namespace sluice {
namespace {

SchedulerOptions options(int64_t blocks, int64_t budget, int stages = 1) {
  SchedulerOptions o;
  o.groups = {{blocks, 0}};
  o.block_size = 4;
  o.token_budget = budget;
  o.max_seqs = o.max_running = 64;
  o.max_samples = 64;
  o.stages = stages;
  return o;
}

SequenceSpec spec(int32_t n_prompt, int32_t n_new, int32_t first = 100) {
  SequenceSpec s;
  for (int32_t i = 0; i < n_prompt; ++i) s.prompt.push_back(first + i);
  s.max_new_tokens = n_new;
  return s;
}

SequenceId add(Scheduler& s, SequenceSpec what, uint64_t tag, int n = 1) {
  std::vector<uint64_t> tags;
  for (int i = 0; i < n; ++i) tags.push_back(tag + static_cast<uint64_t>(i));
  return s.add(std::move(what), tags);
}

std::vector<TokenEvent> complete(Scheduler& s, const Step& step, int32_t token = 7) {
  StepResult r;
  r.id = step.id;
  r.tokens.assign(step.samples.size(), {});
  for (auto& t : r.tokens) t.token = token;
  std::vector<TokenEvent> events;
  s.complete(r, events);
  return events;
}

}  // namespace

TEST_CASE("a step holds decodes first, then running prompts, then new ones") {
  Scheduler s(options(1000, 10));
  Step a, b, c;
  add(s, spec(4, 9), 1);
  REQUIRE(s.schedule(a));
  complete(s, a);
  add(s, spec(12, 9, 300), 2);
  REQUIRE(s.schedule(b));  // decode and the first 9 of the second prompt
  REQUIRE(b.sequences.size() == 2);
  CHECK(b.sequences[0].phase == Phase::kDecode);
  CHECK(b.sequences[1].n_rows == 9);
  CHECK(b.samples.size() == 1);
  complete(s, b);
  add(s, spec(30, 9, 500), 3);
  REQUIRE(s.schedule(c));
  REQUIRE(c.sequences.size() == 3);
  CHECK(c.sequences[0].phase == Phase::kDecode);
  CHECK(c.sequences[1].first_position == 9);
  CHECK(c.sequences[1].n_rows == 3);
  CHECK(c.sequences[2].first_position == 0);
  CHECK(c.sequences[2].n_rows == 6);
  CHECK(c.rows() == 10);
  CHECK(c.samples.size() == 2);
}

TEST_CASE("a step with enough rows of prompts takes on no further one, and twice as many are most beside decodes") {
  SchedulerOptions o = options(1000, 40);
  o.enough_rows = 8;
  Scheduler s(o);
  Step step;
  const auto prompts = [&] {
    REQUIRE(s.schedule(step));
    std::vector<int32_t> rows;
    for (const StepSequence& q : step.sequences)
      if (q.phase != Phase::kDecode) rows.push_back(q.n_rows);
    complete(s, step);
    return rows;
  };
  // Short ones go together until there is enough; a long one takes what there is, and the rest of it goes first.
  const std::vector<int32_t> lengths{10, 10, 3, 3, 3, 3, 60, 9};
  for (size_t i = 0; i < lengths.size(); ++i) add(s, spec(lengths[i], 50, 1000 * static_cast<int32_t>(i)), i);
  CHECK(prompts() == std::vector<int32_t>{10});
  CHECK(prompts() == std::vector<int32_t>{10});
  CHECK(prompts() == std::vector<int32_t>{3, 3, 3});
  CHECK(prompts() == std::vector<int32_t>{3, 13});  // five decode beside them
  CHECK(prompts() == std::vector<int32_t>{16});
  CHECK(prompts() == std::vector<int32_t>{16});
  CHECK(prompts() == std::vector<int32_t>{15});
  CHECK(prompts() == std::vector<int32_t>{9});
}

TEST_CASE("with one stage a sequence decodes again before its token is known, and the overrun is dropped") {
  Scheduler s(options(1000, 10));
  SequenceSpec what = spec(4, 9);
  what.eos_ids = {2};
  add(s, what, 1);
  Step a, b, c;
  REQUIRE(s.schedule(a));
  REQUIRE(s.schedule(b));
  CHECK(b.tokens == std::vector<int32_t>{-1});
  CHECK_FALSE(s.schedule(c));  // two steps are unfinished
  auto events = complete(s, a, 2);
  REQUIRE(events.size() == 1);
  CHECK(events[0].end == SequenceEnd::kEos);
  CHECK(s.counts().blocks_used > 0);  // the second step still names them
  CHECK(complete(s, b, 5).empty());
  CHECK(s.counts().blocks_used == 0);
  CHECK(s.idle());
}

TEST_CASE("a sequence whose length is used up is not scheduled beyond it") {
  Scheduler s(options(1000, 10));
  add(s, spec(4, 1), 1);
  Step a, b;
  REQUIRE(s.schedule(a));
  CHECK_FALSE(s.schedule(b));
  CHECK(complete(s, a)[0].end == SequenceEnd::kLength);
}

TEST_CASE("a sequence marked host-first waits for each token") {
  Scheduler s(options(1000, 10));
  SequenceSpec what = spec(4, 3);
  what.host_first = true;
  add(s, what, 1);
  Step a, b;
  for (int i = 0; i < 3; ++i) {
    REQUIRE(s.schedule(a));
    CHECK_FALSE(s.schedule(b));
    CHECK(std::ranges::count(a.tokens, -1) == 0);
    complete(s, a);
  }
  CHECK(s.idle());
}

TEST_CASE("with several stages the steps in flight hold equal shares of the decodes") {
  for (const int stages : {2, 3}) {
    Scheduler s(options(1000, 64, stages));
    for (uint64_t i = 0; i < 12; ++i) add(s, spec(2, 200), i);
    std::vector<Step> steps(1000);
    size_t next = 0, done = 0;
    for (int i = 0; i < 60; ++i) {
      while (s.schedule(steps[next])) ++next;
      CHECK(next - done <= static_cast<size_t>(stages));
      if (i > 6) {
        CHECK(next - done == static_cast<size_t>(stages));
        CHECK(steps[next - 1].rows() == 12 / stages);
        std::map<int32_t, int> slots;
        for (size_t k = done; k < next; ++k)
          for (const auto& q : steps[k].sequences) CHECK(++slots[q.slot] == 1);
        CHECK(slots.size() == 12);
      }
      complete(s, steps[done++]);
    }
  }
}

TEST_CASE("a long prompt keeps several stages busy") {
  Scheduler s(options(1000, 8, 3));
  add(s, spec(100, 2), 1);
  Step a, b, c;
  CHECK(s.schedule(a));
  CHECK(s.schedule(b));
  CHECK(s.schedule(c));
  CHECK(c.sequences[0].first_position == 16);
}

TEST_CASE("choices share full blocks, copy the last one in the next step, and draw from one row") {
  Scheduler s(options(1000, 64));
  add(s, spec(10, 5), 1, 3);
  Step a, b;
  REQUIRE(s.schedule(a));
  CHECK(a.rows() == 10);
  REQUIRE(a.samples.size() == 3);
  for (const SampleEntry& e : a.samples) {
    CHECK(e.row == 9);
    CHECK(e.position == 10);
  }
  CHECK(a.copies.empty());
  REQUIRE(a.inits.size() == 3);
  CHECK(a.inits[2].params.choice == 2);
  CHECK(s.counts().blocks_used == 3 + 2);
  std::map<int32_t, std::map<int32_t, int32_t>> tables;
  for (const BlockDelta& d : a.tables) tables[d.slot][d.index] = d.block;
  const auto &t0 = tables[a.inits[0].slot], &t1 = tables[a.inits[1].slot], &t2 = tables[a.inits[2].slot];
  CHECK(t0.at(0) == t1.at(0));
  CHECK(t0.at(1) == t2.at(1));
  CHECK(t0.at(2) != t1.at(2));
  CHECK(t1.at(2) != t2.at(2));
  REQUIRE(s.schedule(b));
  REQUIRE(b.copies.size() == 2);
  CHECK(b.copies[0].from == t0.at(2));
  CHECK(b.copies[0].to == t1.at(2));
  CHECK(b.copies[1].to == t2.at(2));
  CHECK(b.tokens == std::vector<int32_t>{-1, -1, -1});
}

TEST_CASE("choices without a slot of their own compute the prompt later") {
  SchedulerOptions o = options(1000, 64);
  o.max_running = 2;
  Scheduler s(o);
  add(s, spec(10, 1), 1, 5);
  std::map<uint64_t, int> seen;
  Step step;
  for (int i = 0; i < 20 && !s.idle(); ++i) {
    REQUIRE(s.schedule(step));
    for (const TokenEvent& e : complete(s, step)) ++seen[e.tag];
  }
  CHECK(s.idle());
  CHECK(seen == std::map<uint64_t, int>{{1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}});
  CHECK(s.counts().blocks_used == 0);
}

TEST_CASE("a prompt seen before takes its blocks from the cache, but for the last token") {
  Scheduler s(options(1000, 64));
  Step step;
  add(s, spec(12, 1), 1);
  REQUIRE(s.schedule(step));
  CHECK(step.rows() == 12);
  CHECK(s.started()[0].cached_tokens == 0);
  complete(s, step);
  add(s, spec(12, 1), 2);
  REQUIRE(s.schedule(step));
  CHECK(step.rows() == 4);
  CHECK(step.sequences[0].first_position == 8);
  CHECK(s.started()[0].cached_tokens == 8);
  complete(s, step);
  SequenceSpec scored = spec(12, 1);
  scored.prompt_scores = true;
  add(s, scored, 3);
  REQUIRE(s.schedule(step));
  CHECK(step.rows() == 12);
  REQUIRE(step.samples.size() == 12);
  CHECK(step.samples[0].target == 101);
  CHECK(step.samples[10].position == 11);
  CHECK(step.samples[11].target == -1);
}

TEST_CASE("the youngest gives way when blocks run out, and its tokens are recomputed") {
  Scheduler s(options(6, 64));  // 24 tokens
  add(s, spec(8, 12, 100), 1);
  add(s, spec(8, 12, 300), 2);
  Step step;
  std::map<uint64_t, int> tokens;
  std::map<uint64_t, int> finished_at;
  bool recomputed = false;
  for (int i = 0; i < 100 && !s.idle(); ++i) {
    REQUIRE(s.schedule(step));
    for (const StepSequence& q : step.sequences)
      recomputed = recomputed || (i > 0 && q.phase == Phase::kPrefill && q.n_rows > 1);
    for (const TokenEvent& e : complete(s, step)) {
      ++tokens[e.tag];
      if (e.end != SequenceEnd::kNone) finished_at[e.tag] = i;
    }
  }
  CHECK(s.idle());
  CHECK(s.counts().preemptions > 0);
  CHECK(recomputed);
  CHECK(tokens == std::map<uint64_t, int>{{1, 12}, {2, 12}});
  CHECK(finished_at[1] < finished_at[2]);
}

TEST_CASE("a budget below the number of decodes serves them in turn") {
  Scheduler s(options(1000, 3));
  for (uint64_t i = 0; i < 3; ++i) add(s, spec(1, 50), i);
  add(s, spec(1, 50), 3, 5);
  Step step;
  std::map<uint64_t, int> tokens;
  for (int i = 0; i < 500 && !s.idle(); ++i) {
    REQUIRE(s.schedule(step));
    CHECK(step.rows() <= 3);
    for (const TokenEvent& e : complete(s, step)) ++tokens[e.tag];
    int low = 1000, high = 0;
    for (auto [tag, n] : tokens) {
      low = std::min(low, n);
      high = std::max(high, n);
    }
    if (tokens.size() == 3 && i < 20) CHECK(high - low <= 1);
  }
  for (auto [tag, n] : tokens) CHECK(n == 50);
  CHECK(tokens.size() == 8);
}

TEST_CASE("a window group gives back blocks that no query sees any more") {
  SchedulerOptions o = options(0, 8);
  o.groups = {{8, 6}};
  Scheduler s(o);
  CHECK(s.max_tokens() > 1000);
  add(s, spec(30, 200), 1);
  Step step;
  int n = 0;
  while (!s.idle()) {
    REQUIRE(s.schedule(step));
    n += static_cast<int>(complete(s, step).size());
    CHECK(s.counts().blocks_used <= 5);
  }
  CHECK(n == 200);
}

TEST_CASE("a prompt seen before takes from a window group what its next row sees") {
  SchedulerOptions o = options(0, 64);
  o.groups = {{100, 0}, {100, 6}};
  Scheduler s(o);
  Step step;
  add(s, spec(22, 1), 1);
  REQUIRE(s.schedule(step));
  complete(s, step);
  CHECK(s.counts().blocks_used == 0);
  add(s, spec(22, 1), 2);
  REQUIRE(s.schedule(step));
  CHECK(s.started()[0].cached_tokens == 20);
  CHECK(step.rows() == 2);
  // Row 20 sees keys 15 to 20 of the window: its blocks are 3 to 5, of which the last is new.
  std::map<int32_t, std::vector<int32_t>> indices;
  for (const BlockDelta& d : step.tables) indices[d.group].push_back(d.index);
  CHECK(indices[0] == std::vector<int32_t>{0, 1, 2, 3, 4, 5});
  CHECK(indices[1] == std::vector<int32_t>{3, 4, 5});
  complete(s, step);
  CHECK(s.counts().blocks_used == 0);
}

TEST_CASE("a prefix of which a window group forgot the start is computed again") {
  SchedulerOptions o = options(0, 8);
  o.groups = {{100, 0}, {7, 6}};  // what left the window is the first to be forgotten
  Scheduler s(o);
  Step step;
  for (const int32_t first : {100, 500, 100}) {
    add(s, spec(22, 1, first), static_cast<uint64_t>(first));
    REQUIRE(s.schedule(step));
    CHECK(s.started()[0].cached_tokens == 0);
    CHECK(step.rows() == 8);
    complete(s, step);
    while (!s.idle()) {
      REQUIRE(s.schedule(step));
      complete(s, step);
    }
  }
}

TEST_CASE("a finished sequence is heard of no more, and an unknown one is ignored") {
  Scheduler s(options(100, 64));
  const SequenceId id = add(s, spec(4, 50), 1);
  Step a;
  REQUIRE(s.schedule(a));
  s.finish(id);
  s.finish(id);
  s.finish(999);
  CHECK(complete(s, a).empty());
  CHECK(s.idle());
  CHECK(s.counts().blocks_used == 0);
}

TEST_CASE("who grows beyond the length from which state differs begins again with all its tokens") {
  for (const int stages : {1, 2}) {
    SchedulerOptions o = options(1000, 100, stages);
    o.varies_beyond = 8;
    o.recomputes = true;
    Scheduler s(o);
    add(s, spec(6, 6), 1);
    // Rows of each step, the first position and what the slot was begun with, until five more tokens are there.
    std::vector<std::array<int32_t, 3>> seen;
    int32_t begun = 0;
    Step step;
    for (int i = 0; i < 12 && s.schedule(step); ++i) {
      for (const SlotInit& init : step.inits) begun = init.length;
      REQUIRE(step.sequences.size() == 1);
      seen.push_back({step.sequences[0].n_rows, step.sequences[0].first_position, begun});
      complete(s, step);
    }
    const std::vector<std::array<int32_t, 3>> want{{6, 0, 6}, {1, 6, 6}, {1, 7, 6}, {9, 0, 9}, {1, 9, 9}, {1, 10, 9}};
    CHECK(seen == want);
    CHECK(s.counts().blocks_used == 0);
    CHECK(s.counts().running == 0);
  }
}

TEST_CASE("what was computed on either side of that length is found on the same side only") {
  SchedulerOptions o = options(1000, 100);
  o.varies_beyond = 8;
  o.recomputes = true;
  const auto hits = [](Scheduler& s, int32_t n_prompt) {
    Step step;
    add(s, spec(n_prompt, 1), 5);
    REQUIRE(s.schedule(step));
    const int32_t found = s.started()[0].cached_tokens;
    complete(s, step);
    return found;
  };
  Scheduler two_sides(o);
  CHECK(hits(two_sides, 8) == 0);
  CHECK(hits(two_sides, 8) == 4);
  CHECK(hits(two_sides, 12) == 0);
  CHECK(hits(two_sides, 12) == 8);
  CHECK(hits(two_sides, 7) == 4);
  o.recomputes = false;  // beyond, every length is a kind of its own
  Scheduler one_side(o);
  CHECK(hits(one_side, 12) == 0);
  CHECK(hits(one_side, 12) == 0);
  CHECK(hits(one_side, 8) == 0);
  CHECK(hits(one_side, 8) == 4);
}

TEST_CASE("a preempted sequence keeps the length of its prompt where state depends on it") {
  SchedulerOptions o = options(6, 100);
  o.varies_beyond = 4;
  Scheduler s(o);
  add(s, spec(8, 12), 1);
  add(s, spec(8, 12, 300), 2);
  Step step;
  int32_t readmitted = 0;
  for (int i = 0; i < 100 && s.schedule(step); ++i) {
    for (const SlotInit& init : step.inits) {
      CHECK(init.length == 8);
      readmitted += i > 0 ? 1 : 0;
    }
    complete(s, step);
  }
  CHECK(s.counts().preemptions > 0);
  CHECK(readmitted > 0);
}

}  // namespace sluice
