// SPDX-License-Identifier: Apache-2.0
#include "sample/sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "sample/fixed_math.h"
#include "sample/processors.h"
#include "sample/random.h"

namespace sluice {
namespace {

constexpr float kNever = kNeverScore;
constexpr size_t kLanes = 8;

float finite(float s) { return s == s ? std::min(s, FLT_MAX) : kNever; }

// Largest score, after making NaN -inf and +inf finite.
float row_max(std::span<const float> row) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, kNever);
  size_t i = 0;
  for (; i + kLanes <= row.size(); i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) lanes[l] = row[i + l] > lanes[l] ? row[i + l] : lanes[l];
  }
  for (; i < row.size(); ++i) lanes[0] = row[i] > lanes[0] ? row[i] : lanes[0];
  return std::min(*std::max_element(lanes, lanes + kLanes), FLT_MAX);
}

// Sum of e^(s - max). Short f32 sums per lane, then f64: a fixed order for every row length.
double row_mass(std::span<const float> row, float max) {
  constexpr size_t kBlock = 64 * kLanes;
  double total = 0;
  for (size_t begin = 0; begin < row.size(); begin += kBlock) {
    const size_t end = std::min(row.size(), begin + kBlock);
    float lanes[kLanes] = {};
    size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (size_t l = 0; l < kLanes; ++l) lanes[l] += fixed_exp(finite(row[i + l]) - max);
    }
    for (; i < end; ++i) lanes[0] += fixed_exp(finite(row[i]) - max);
    for (const float lane : lanes) total += static_cast<double>(lane);
  }
  return total;
}

double log_sum_exp(std::span<const float> row, float max) {
  return static_cast<double>(max) + fixed_log(row_mass(row, max));
}

// A row, or the candidates that are left of it; both in ascending order of id.
struct Row {
  std::span<const float> scores;
  size_t size() const { return scores.size(); }
  float score(size_t i) const { return scores[i]; }
  int32_t id(size_t i) const { return static_cast<int32_t>(i); }
};
struct Left {
  std::span<const Candidate> list;
  size_t size() const { return list.size(); }
  float score(size_t i) const { return list[i].score; }
  int32_t id(size_t i) const { return list[i].id; }
};

template <class Set>
void report_top(const Set& set, int32_t n, double lse, SampledToken& out) {
  n = std::min(n, kMaxTopLogprobs);
  out.n_top = 0;
  if (n <= 0) return;
  float best[kMaxTopLogprobs];
  for (size_t i = 0; i < set.size(); ++i) {
    const float s = set.score(i);
    if (out.n_top == n ? !(s > best[n - 1]) : !(s > kNever)) continue;
    int32_t at = out.n_top < n ? out.n_top++ : n - 1;
    for (; at > 0 && s > best[at - 1]; --at) {
      best[at] = best[at - 1];
      out.top_ids[at] = out.top_ids[at - 1];
    }
    best[at] = s;
    out.top_ids[at] = set.id(i);
  }
  for (int32_t i = 0; i < out.n_top; ++i) out.top_logprobs[i] = static_cast<float>(static_cast<double>(best[i]) - lse);
}

bool better(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.id > b.id;  // equal scores as a stable ascending sort leaves them
}
bool by_id(const Candidate& a, const Candidate& b) { return a.id < b.id; }

// Drops what is below the k-th best score. Returns that score, or -inf when there are no more than k.
float shrink_to_top(std::vector<Candidate>& list, std::vector<Candidate>& work, size_t k) {
  if (list.size() <= k) return kNever;
  work.assign(list.begin(), list.end());
  const auto kth = work.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(work.begin(), kth, work.end(), better);
  const float bar = kth->score;
  std::erase_if(list, [bar](const Candidate& c) { return c.score < bar; });
  return bar;
}

void keep_top_k(std::span<const float> row, size_t k, SamplerScratch& scratch) {
  std::vector<Candidate>& list = scratch.candidates;
  list.clear();
  float bar = kNever;
  size_t limit = std::max<size_t>(4 * k, 1024);
  for (size_t i = 0; i < row.size(); ++i) {
    if (row[i] < bar || row[i] == kNever) continue;
    list.push_back({row[i], static_cast<int32_t>(i)});
    if (list.size() < limit) continue;
    bar = shrink_to_top(list, scratch.sorted, k);
    limit = std::max(limit, 2 * list.size());  // ties at the border may outnumber k
  }
  shrink_to_top(list, scratch.sorted, k);
}

// A token stays while the mass of the better ones is below top_p. Scores are relative to the best one.
template <class Set>
void keep_top_p(const Set& set, double mass, float top_p, SamplerScratch& scratch) {
  std::vector<Candidate>& best = scratch.sorted;
  for (const float cut : {-4.0f, -9.0f, -20.0f, kNever}) {
    best.clear();
    for (size_t i = 0; i < set.size(); ++i) {
      if (set.score(i) >= cut && set.score(i) > kNever) best.push_back({set.score(i), set.id(i)});
    }
    std::sort(best.begin(), best.end(), better);
    double above = 0;
    size_t kept = 0;
    while (kept < best.size() && (kept == 0 || above / mass < static_cast<double>(top_p))) {
      above += static_cast<double>(fixed_exp(best[kept++].score));
    }
    if (kept < best.size() || cut == kNever) {
      best.resize(kept);
      break;
    }
  }
  std::sort(best.begin(), best.end(), by_id);
  std::swap(scratch.candidates, scratch.sorted);
}

template <class Set>
void keep_min_p(const Set& set, float min_p, SamplerScratch& scratch) {
  scratch.sorted.clear();
  for (size_t i = 0; i < set.size(); ++i) {
    const float s = set.score(i);
    if (s > kNever && fixed_exp(s) >= min_p) scratch.sorted.push_back({s, set.id(i)});
  }
  std::swap(scratch.candidates, scratch.sorted);
}

double mass_of(std::span<const Candidate> list) {
  double mass = 0;
  for (const Candidate& c : list) mass += static_cast<double>(fixed_exp(c.score));
  return mass;
}

template <class Set>
double entropy_of(const Set& set, double mass) {
  const double log_mass = fixed_log(mass);
  double entropy = 0;
  for (size_t i = 0; i < set.size(); ++i) {
    if (set.score(i) == kNever) continue;
    const double surprise = log_mass - static_cast<double>(set.score(i));
    entropy += surprise * static_cast<double>(fixed_exp(set.score(i))) / mass;
  }
  return entropy;
}

// Drops tokens less likely than `least`; the likeliest, and what ties with it, stays.
template <class Set>
void keep_likely(const Set& set, double mass, double least, SamplerScratch& scratch) {
  float best = kNever;
  for (size_t i = 0; i < set.size(); ++i) best = std::max(best, set.score(i));
  scratch.sorted.clear();
  for (size_t i = 0; i < set.size(); ++i) {
    const float s = set.score(i);
    if (s == kNever || (s < best && static_cast<double>(fixed_exp(s)) / mass < least)) continue;
    scratch.sorted.push_back({s, set.id(i)});
  }
  std::swap(scratch.candidates, scratch.sorted);
}

template <class Set>
void keep_eta(const Set& set, double mass, float eta, SamplerScratch& scratch) {
  const auto cut = static_cast<double>(eta);
  const double spread = static_cast<double>(fixed_exp(static_cast<float>(-std::max(0.0, entropy_of(set, mass)))));
  keep_likely(set, mass, std::min(cut, std::sqrt(cut) * spread), scratch);
}

// Keeps the tokens whose surprise is closest to the entropy until they hold `typical_p`, and ties with the last.
template <class Set>
void keep_typical(const Set& set, double mass, float typical_p, SamplerScratch& scratch) {
  const double log_mass = fixed_log(mass);
  const double entropy = entropy_of(set, mass);
  std::vector<Candidate>& order = scratch.sorted;  // score holds the distance to the entropy
  order.clear();
  const auto distance = [&](float s) {
    return static_cast<float>(std::abs(log_mass - static_cast<double>(s) - entropy));
  };
  for (size_t i = 0; i < set.size(); ++i) {
    if (set.score(i) > kNever)
      order.push_back({distance(set.score(i)), static_cast<int32_t>(i)});  // id: place in `set`
  }
  std::sort(order.begin(), order.end(), [](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score < b.score : a.id < b.id;
  });
  double held = 0;
  size_t last = 0;
  for (; last + 1 < order.size(); ++last) {
    held += static_cast<double>(fixed_exp(set.score(static_cast<size_t>(order[last].id)))) / mass;
    if (held >= static_cast<double>(typical_p)) break;
  }
  const float bar = order[last].score;
  order.clear();
  for (size_t i = 0; i < set.size(); ++i) {
    const float s = set.score(i);
    if (s > kNever && distance(s) <= bar) order.push_back({s, set.id(i)});
  }
  std::swap(scratch.candidates, scratch.sorted);
}

// Gumbel-max. `pick` starts as the likeliest token: the better the first value, the more of the rest is skipped.
template <class Set>
struct Draw {
  const Set& set;
  TokenNoise noise;
  size_t pick = 0;
  double best = 0;

  Draw(const Set& from, const SamplingParams& p, int64_t position) : set(from), noise(p.seed, p.choice, position) {
    for (size_t i = 1; i < set.size(); ++i) {
      if (set.score(i) > set.score(pick)) pick = i;
    }
    best = static_cast<double>(set.score(pick)) + noise.gumbel(set.id(pick));
  }
  void offer(size_t i) {
    const double s = static_cast<double>(set.score(i));
    if (s + TokenNoise::kMaxGumbel < best || i == pick) return;  // no noise can lift it
    const double value = s + noise.gumbel(set.id(i));
    if (value > best || (value == best && i < pick)) {
      best = value;
      pick = i;
    }
  }
};

size_t draw(const Left& left, const SamplingParams& p, int64_t position) {
  Draw<Left> d(left, p, position);
  for (size_t i = 0; i < left.size(); ++i) d.offer(i);
  return d.pick;
}

// The same over a whole row. A value above `best` needs 1 - u < e^(s - best), because 1 - u <= -log u: one comparison
// of the random word rules nearly every token out before any logarithm.
size_t draw(const Row& row, const SamplingParams& p, int64_t position) {
  constexpr size_t kChunk = 256;
  Draw<Row> d(row, p, position);
  float reach[kChunk], chance[kChunk];
  for (size_t begin = 0; begin < row.size(); begin += kChunk) {
    const size_t n = std::min(kChunk, row.size() - begin);
    const float best = static_cast<float>(d.best);
    for (size_t i = 0; i < n; ++i) {
      const float x = row.score(begin + i) - best;
      reach[i] = fixed_exp(x < 0.0f ? x : 0.0f) * 1.0001f + 0x1p-30f;  // margins for the rounding of best and exp
    }
    d.noise.distance_to_one(static_cast<int32_t>(begin), std::span(chance, n));
    for (size_t i = 0; i < n; ++i) {
      if (chance[i] <= reach[i]) d.offer(begin + i);
    }
  }
  return d.pick;
}

}  // namespace

void sample_row(std::span<float> logits, const SamplingParams& p, const TokenHistory* history, int64_t position,
                SamplerScratch& scratch, SampledToken& out, std::span<const uint32_t> mask) {
  out = {};
  check(!logits.empty(), "no logits to sample from");
  const bool raw = p.n_logprobs >= 0 && p.raw_logprobs, drawn = p.n_logprobs >= 0 && !p.raw_logprobs;
  double raw_lse = 0;
  if (raw) {
    raw_lse = log_sum_exp(logits, row_max(logits));
    report_top(Row{logits}, p.n_logprobs, raw_lse, out);
    scratch.raw.assign(logits.begin(), logits.end());
  }
  if (changes_scores(p, position)) apply_processors(logits, p, history, position);
  if (!mask.empty()) apply_mask(logits, mask);
  const float max = row_max(logits);
  if (max == kNever) {  // nothing may come: a caller's contradiction, kept harmless
    out.logprob = p.n_logprobs >= 0 ? kNever : 0;
    return;
  }
  if (p.greedy) {
    size_t token = 0;
    while (!(finite(logits[token]) == max)) ++token;
    out.token = static_cast<int32_t>(token);
    if (drawn) {
      const double lse = log_sum_exp(logits, max);
      out.logprob = static_cast<float>(static_cast<double>(max) - lse);
      report_top(Row{logits}, p.n_logprobs, lse, out);
    }
  } else {
    check(p.temperature > 0, "sampling needs a positive temperature");
    for (float& s : logits) s = (finite(s) - max) / p.temperature;  // from here on the best score is 0
    const Row row{logits};
    bool whole = true;  // nothing is dropped yet: the set is the row, else scratch.candidates
    const auto with_set = [&](auto&& f) { return whole ? f(row) : f(Left{scratch.candidates}); };
    const auto mass = [&] { return whole ? row_mass(logits, 0) : mass_of(scratch.candidates); };
    if (p.top_k > 0 && static_cast<size_t>(p.top_k) < logits.size()) {
      keep_top_k(logits, static_cast<size_t>(p.top_k), scratch);
      whole = false;
    }
    if (p.top_p < 1.0f) {
      with_set([&](const auto& set) { keep_top_p(set, mass(), p.top_p, scratch); });
      whole = false;
    }
    if (p.min_p > 0.0f) {
      with_set([&](const auto& set) { keep_min_p(set, p.min_p, scratch); });
      whole = false;
    }
    if (p.typical_p < 1.0f) {
      with_set([&](const auto& set) { keep_typical(set, mass(), p.typical_p, scratch); });
      whole = false;
    }
    if (p.epsilon_cutoff > 0.0f) {
      with_set([&](const auto& set) { keep_likely(set, mass(), static_cast<double>(p.epsilon_cutoff), scratch); });
      whole = false;
    }
    if (p.eta_cutoff > 0.0f) {
      with_set([&](const auto& set) { keep_eta(set, mass(), p.eta_cutoff, scratch); });
      whole = false;
    }
    with_set([&](const auto& set) {
      const size_t pick = draw(set, p, position);
      out.token = set.id(pick);
      if (!drawn) return;
      const double lse = fixed_log(mass());
      out.logprob = static_cast<float>(static_cast<double>(set.score(pick)) - lse);
      report_top(set, p.n_logprobs, lse, out);
    });
  }
  if (raw) {
    out.logprob =
        static_cast<float>(static_cast<double>(finite(scratch.raw[static_cast<size_t>(out.token)])) - raw_lse);
  }
}

void best_of_row(std::span<float> logits, const SamplingParams& p, const TokenHistory* history, int64_t position,
                 int32_t first, SamplerScratch& scratch, SampledToken& out) {
  out = {};
  const double lse = log_sum_exp(logits, row_max(logits));
  for (float& s : logits) s = static_cast<float>(static_cast<double>(finite(s)) - lse);
  if (changes_scores(p, position)) apply_processors(logits, p, history, position);
  keep_top_k(logits, static_cast<size_t>(first + kMaxTopLogprobs), scratch);
  std::vector<Candidate>& best = scratch.candidates;
  std::ranges::stable_sort(best, std::ranges::greater{}, &Candidate::score);
  for (auto i = static_cast<size_t>(first); i < best.size() && out.n_top < kMaxTopLogprobs; ++i) {
    out.top_ids[out.n_top] = best[i].id;
    out.top_logprobs[out.n_top++] = best[i].score;
  }
  if (first == 0 && best.empty()) {
    out.n_top = 1;
    out.top_logprobs[0] = kNever;
  }
}

float score_row(std::span<const float> logits, int32_t target) {
  check(target >= 0 && static_cast<size_t>(target) < logits.size(), "scored token is outside the vocabulary");
  const double lse = log_sum_exp(logits, row_max(logits));
  return static_cast<float>(static_cast<double>(finite(logits[static_cast<size_t>(target)])) - lse);
}

void score_row(std::span<const float> logits, int32_t target, int32_t n_top, SampledToken& out) {
  out = {};
  check(target >= 0 && static_cast<size_t>(target) < logits.size(), "scored token is outside the vocabulary");
  const double lse = log_sum_exp(logits, row_max(logits));
  out.token = target;
  const float score = finite(logits[static_cast<size_t>(target)]);
  out.logprob = static_cast<float>(static_cast<double>(score) - lse);
  out.rank = 1;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float s = finite(logits[i]);
    out.rank += s > score || (s == score && i < static_cast<size_t>(target)) ? 1 : 0;
  }
  report_top(Row{logits}, n_top, lse, out);
}

}  // namespace sluice
