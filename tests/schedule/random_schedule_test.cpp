// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <set>

#include "schedule/reference_executor.h"

namespace sluice {
namespace {

struct Answer {
  SequenceSpec spec;
  int32_t choice = 0;
  SequenceId id = 0;
  std::vector<int32_t> output;
  std::map<int32_t, float> scores;  // by position
  SequenceEnd end = SequenceEnd::kNone;
  bool cancelled = false;
};

// Runs a scheduler against the reference executor, whose results lag behind, and checks every step on the way.
class Harness {
 public:
  explicit Harness(const SchedulerOptions& options) : options_(options), scheduler(options), executor_(options) {
    slots_.resize(static_cast<size_t>(options.max_running),
                  Tenant{0, std::vector<std::map<int32_t, int32_t>>(options.groups.size())});
  }

  void add(SequenceSpec spec, int32_t n) {
    std::vector<uint64_t> tags;
    for (int32_t i = 0; i < n; ++i) {
      tags.push_back(answers.size());
      answers.push_back({spec, i, 0, {}, {}, SequenceEnd::kNone, false});
    }
    const SequenceId id = scheduler.add(spec, tags);
    for (int32_t i = 0; i < n; ++i) answers[tags[static_cast<size_t>(i)]].id = id + i;
  }

  void cancel(size_t i) {
    scheduler.finish(answers[i].id);
    const size_t first = i - static_cast<size_t>(answers[i].choice);
    if (answers[i].spec.beams.width == 1) {
      answers[i].cancelled = true;
    } else {  // with one beam all of the search goes
      for (size_t k = first; k < answers.size() && answers[k].id - answers[k].choice == answers[first].id; ++k)
        answers[k].cancelled = true;
    }
  }

  bool schedule() {
    Step step;
    if (!scheduler.schedule(step)) return false;
    check_step(step);
    ++n_steps;
    steps_.push_back(std::move(step));
    for (const StartEvent& s : scheduler.started()) {
      if (answers[s.tag].choice == 0) {
        REQUIRE(answers[s.tag].id > last_started_);  // first come, first served
        last_started_ = answers[s.tag].id;
      }
      cached += s.cached_tokens;
    }
    return true;
  }

  bool complete() {
    if (steps_.empty()) return false;
    StepResult result;
    REQUIRE(executor_.run(steps_.front(), result));
    std::vector<TokenEvent> events;
    scheduler.complete(result, events);
    for (const TokenEvent& e : events) {
      Answer& a = answers[e.tag];
      REQUIRE_FALSE(a.cancelled);
      REQUIRE(a.end == SequenceEnd::kNone);
      const SampledToken& t = result.tokens[static_cast<size_t>(e.sample)];
      if (e.score) {
        REQUIRE(a.scores.emplace(e.position, t.logprob).second);
        REQUIRE(a.output.empty());
        continue;
      }
      REQUIRE(e.position == static_cast<int32_t>(a.spec.prompt.size() + a.output.size()));
      a.output.push_back(t.token);
      a.end = e.end;
    }
    for (const BeamAnswer& found : scheduler.beam_answers()) {
      Answer& a = answers[found.tag];
      REQUIRE_FALSE(a.cancelled);
      REQUIRE(a.end == SequenceEnd::kNone);
      a.output = found.tokens;
      a.end = found.end;
      ++searched;
    }
    steps_.pop_front();
    return true;
  }

  void finish_all() {
    for (int i = 0; !scheduler.idle(); ++i) {
      REQUIRE(i < 200000);  // nobody starves
      const bool scheduled = schedule();
      if (!scheduled || i % 3 == 0) {
        const bool completed = complete();
        REQUIRE((scheduled || completed));
      }
    }
    CHECK(steps_.empty());
    CHECK(scheduler.counts().blocks_used == 0);
    CHECK(scheduler.counts().running + scheduler.counts().waiting == 0);
  }

  void check_answers() {
    for (size_t i = 0; i < answers.size(); ++i) {
      const Answer& a = answers[i];
      if (a.spec.beams.width > 1) {
        if (a.choice > 0 || a.cancelled) continue;
        size_t n = 1;
        while (i + n < answers.size() && answers[i + n].choice > 0) ++n;
        const std::vector<BeamAnswer> expected = reference_beams(a.spec, n, executor_.windows);
        REQUIRE(expected.size() == n);
        for (size_t k = 0; k < n; ++k) {
          REQUIRE(answers[i + k].output == expected[k].tokens);
          REQUIRE(answers[i + k].end == expected[k].end);
        }
        continue;
      }
      const std::vector<int32_t> tokens = reference_tokens(a.spec, a.choice, executor_.windows);
      const std::vector<int32_t> output(tokens.begin() + static_cast<std::ptrdiff_t>(a.spec.prompt.size()),
                                        tokens.end());
      REQUIRE(a.output.size() <= output.size());
      REQUIRE(std::ranges::equal(a.output, std::span(output).first(a.output.size())));
      for (auto [position, value] : a.scores)
        REQUIRE(value == reference_score(a.spec, tokens, position, executor_.windows));
      if (a.cancelled) continue;
      REQUIRE(a.output == output);
      const auto is = [&](const std::vector<int32_t>& ids) { return std::ranges::count(ids, output.back()) > 0; };
      REQUIRE(a.end == (is(a.spec.eos_ids)    ? SequenceEnd::kEos
                        : is(a.spec.stop_ids) ? SequenceEnd::kStopId
                                              : SequenceEnd::kLength));
      if (a.choice == 0) REQUIRE(a.scores.size() == (a.spec.prompt_scores ? a.spec.prompt.size() - 1 : 0));
    }
  }

  size_t in_flight() const { return steps_.size(); }

 private:
  struct Tenant {
    uint64_t generation;
    std::vector<std::map<int32_t, int32_t>> tables;  // [groups]
  };
  using Named =
      std::map<uint64_t, std::vector<std::set<int32_t>>>;  // tenant generation -> blocks it may read, by group

  void check_step(const Step& step) {
    REQUIRE(step.rows() > 0);
    int64_t encoder_rows = 0;
    for (const StepSequence& s : step.sequences) {
      REQUIRE((encoder_rows == 0 || s.phase == Phase::kEncode));  // encoder prompts come last
      if (s.phase == Phase::kEncode) encoder_rows += s.n_rows;
    }
    REQUIRE(encoder_rows <= options_.encode_budget);
    REQUIRE(step.rows() - encoder_rows <= options_.token_budget);
    REQUIRE(static_cast<int64_t>(step.sequences.size()) <= options_.max_seqs);
    REQUIRE(static_cast<int64_t>(step.samples.size()) <= options_.max_samples);
    for (const SlotInit& init : step.inits) {
      Tenant& tenant = slots_[static_cast<size_t>(init.slot)];
      tenant.generation = ++generations_;
      for (auto& table : tenant.tables) table.clear();
    }
    for (const BlockDelta& d : step.tables)
      slots_[static_cast<size_t>(d.slot)].tables[static_cast<size_t>(d.group)][d.index] = d.block;
    Named named;
    std::map<std::pair<size_t, int32_t>, uint64_t> written;  // (group, block) -> tenant
    std::set<int32_t> seen;
    int32_t row = 0;
    for (const StepSequence& s : step.sequences) {
      REQUIRE(seen.insert(s.slot).second);
      REQUIRE(s.first_row == row);
      row += s.n_rows;
      const Tenant& tenant = slots_[static_cast<size_t>(s.slot)];
      for (int32_t i = 0; i < s.n_rows; ++i)
        if (step.tokens[static_cast<size_t>(s.first_row + i)] < 0) REQUIRE(options_.stages == 1);
      for (size_t g = 0; g < tenant.tables.size(); ++g) {
        const int64_t window = options_.groups[g].window, last = s.first_position + s.n_rows - 1;
        named[tenant.generation].resize(tenant.tables.size());
        const bool fixed = options_.groups[g].fixed, encode = s.phase == Phase::kEncode;
        if (encode && !fixed) continue;
        for (auto [index, block] : tenant.tables[g]) {
          if (fixed) {
            named[tenant.generation][g].insert(block);
            if (encode) REQUIRE(written.emplace(std::pair(g, block), tenant.generation).second);
            continue;
          }
          const int64_t begin = index * options_.block_size, end = begin + options_.block_size;
          if (begin > last || (window > 0 && end <= s.first_position - window + 1)) continue;
          named[tenant.generation][g].insert(block);
          if (end > s.first_position) REQUIRE(written.emplace(std::pair(g, block), tenant.generation).second);
        }
      }
    }
    REQUIRE(row == step.rows());
    // Nobody writes a block that another sequence of this or an unfinished step uses.
    named_.push_back(named);
    while (named_.size() > steps_.size() + 1) named_.pop_front();
    for (const auto& [where, writer] : written)
      for (const Named& earlier : named_)
        for (const auto& [tenant, blocks] : earlier)
          if (tenant != writer) REQUIRE_FALSE(blocks[where.first].contains(where.second));
  }

  SchedulerOptions options_;

 public:
  Scheduler scheduler;
  std::vector<Answer> answers;
  int64_t n_steps = 0, cached = 0, searched = 0;

 private:
  ReferenceExecutor executor_;
  std::deque<Step> steps_;
  std::deque<Named> named_;
  std::vector<Tenant> slots_;
  uint64_t generations_ = 0;
  SequenceId last_started_ = 0;
};

struct Random {
  std::mt19937_64 engine;
  explicit Random(uint64_t seed) : engine(seed) {}
  int64_t in(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine() % static_cast<uint64_t>(high - low + 1));
  }
  bool chance(int64_t percent) { return in(1, 100) <= percent; }
};

SequenceSpec random_spec(Random& random, int64_t max_tokens, int64_t max_encoder = 0) {
  SequenceSpec spec;
  for (int64_t i = max_encoder > 0 ? random.in(1, std::min<int64_t>(max_encoder, 40)) : 0; i > 0; --i)
    spec.encoder.push_back(static_cast<int32_t>(random.in(0, kReferenceVocab - 1)));
  const int64_t most = max_encoder > 0 ? 3 : 60;  // a decoder begins with little
  const int64_t n_prompt = random.in(1, std::max<int64_t>(1, std::min<int64_t>(max_tokens - 1, most)));
  const int64_t family = random.in(0, 2), common = random.in(0, n_prompt);  // families share the start of a prompt
  for (int64_t i = 0; i < n_prompt; ++i)
    spec.prompt.push_back(
        static_cast<int32_t>(i < common ? (family * 7 + i * i) % kReferenceVocab : random.in(0, kReferenceVocab - 1)));
  spec.max_new_tokens = static_cast<int32_t>(random.in(1, std::min<int64_t>(max_tokens - n_prompt, 50)));
  spec.sampling.seed = static_cast<uint64_t>(random.in(0, 3));
  if (random.chance(30)) spec.sampling.repetition_penalty = 1.5f;
  if (random.chance(50)) spec.eos_ids = {3};
  if (random.chance(30)) spec.stop_ids = {5, 6};
  spec.prompt_scores = random.chance(20);
  spec.host_first = random.chance(20);
  return spec;
}

// A search, where blocks and slots hold one; true then.
bool make_search(Random& random, SequenceSpec& spec, const Scheduler& scheduler) {
  const size_t n_ends = spec.eos_ids.size() + spec.stop_ids.size();
  const int64_t most = std::min<int64_t>(scheduler.max_beams(n_ends), 11);
  if (most < 2) return false;
  const int64_t width = random.in(2, most);
  if (static_cast<int64_t>(spec.prompt.size()) + spec.max_new_tokens > scheduler.max_tokens(width) ||
      static_cast<int64_t>(spec.encoder.size()) > scheduler.max_encoder(width))
    return false;
  spec.beams = {static_cast<int32_t>(width), static_cast<float>(random.in(-1, 3)) * 0.5f,
                static_cast<EarlyStopping>(random.in(0, 2))};
  return true;
}

SchedulerOptions random_options(Random& random) {
  SchedulerOptions o;
  o.block_size = random.chance(50) ? 4 : random.in(1, 16);
  o.token_budget = random.in(1, 64);
  o.max_seqs = random.in(1, 12);
  o.max_samples = random.in(1, 24);
  o.max_running = random.in(1, 16);
  o.stages = random.chance(50) ? 1 : static_cast<int>(random.in(2, 4));
  o.prefix_cache = random.chance(70);
  const int64_t n_groups = random.chance(80) ? 1 : 2;
  for (int64_t g = 0; g < n_groups; ++g) {
    // From a pool that holds hardly one sequence to one that never runs out.
    const int64_t tokens = random.chance(50) ? random.in(30, 130) : random.in(130, 1500);
    o.groups.push_back({tokens / o.block_size + 1, random.chance(20) ? random.in(1, 30) : 0});
  }
  if (random.chance(25)) {
    o.groups.push_back({random.in(30, 400) / o.block_size + 1, 0, true});
    o.encode_budget = random.in(1, 60);
  }
  return o;
}

void run_random(uint64_t seed, int64_t& preemptions, int64_t& cached, int64_t& steps, int64_t& searched) {
  CAPTURE(seed);
  Random random(seed);
  const SchedulerOptions options = random_options(random);
  CAPTURE(options.stages);
  CAPTURE(options.block_size);
  CAPTURE(options.token_budget);
  Harness harness(options);
  const bool cancels = random.chance(50);
  for (int64_t round = 0, left = random.in(1, 40); left > 0; ++round) {
    REQUIRE(round < 100000);
    if (random.chance(25)) {
      SequenceSpec spec = random_spec(random, harness.scheduler.max_tokens(), harness.scheduler.max_encoder());
      int64_t n = random.chance(70) ? 1 : random.in(2, 6);
      if (random.chance(25) && make_search(random, spec, harness.scheduler)) n = random.in(1, spec.beams.width);
      harness.add(spec, static_cast<int32_t>(n));
      --left;
    }
    if (random.chance(60)) harness.schedule();
    if (random.chance(50)) harness.complete();
    if (cancels && !harness.answers.empty() && random.chance(10)) {
      const auto i = static_cast<size_t>(random.in(0, static_cast<int64_t>(harness.answers.size()) - 1));
      if (harness.answers[i].end == SequenceEnd::kNone) harness.cancel(i);
    }
  }
  harness.finish_all();
  harness.check_answers();
  preemptions += static_cast<int64_t>(harness.scheduler.counts().preemptions);
  cached += harness.cached;
  steps += harness.n_steps;
  searched += harness.searched;
}

}  // namespace

TEST_CASE("random schedules give every sequence the tokens that it would get alone") {
  int64_t preemptions = 0, cached = 0, steps = 0, searched = 0;
  for (uint64_t seed = 1; seed <= 1000; ++seed) run_random(seed, preemptions, cached, steps, searched);
  CHECK(searched > 300);
  CHECK(steps > 10000);
  CHECK(preemptions > 100);  // the pools were small enough
  CHECK(cached > 1000);      // and prompts alike enough
}

TEST_CASE("preemption and prefix cache change no token") {
  std::vector<std::vector<std::vector<int32_t>>> outputs;
  for (const bool cache : {false, true})
    for (const int64_t tokens : {120, 5000}) {
      Random random(99);
      SchedulerOptions o;
      o.block_size = 4;
      o.groups = {{tokens / 4, 0}};
      o.token_budget = 24;
      o.max_seqs = o.max_running = 8;
      o.max_samples = 24;
      o.prefix_cache = cache;
      Harness harness(o);
      for (int i = 0; i < 30; ++i) harness.add(random_spec(random, 110), 1 + i % 3);
      harness.finish_all();
      harness.check_answers();
      CHECK((harness.scheduler.counts().preemptions > 0) == (tokens == 120));
      CHECK((harness.cached > 0) == cache);
      outputs.emplace_back();
      for (const Answer& a : harness.answers) outputs.back().push_back(a.output);
    }
  for (const auto& o : outputs) CHECK(o == outputs[0]);
}

}  // namespace sluice
