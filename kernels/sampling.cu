// SPDX-License-Identifier: Apache-2.0
// Compiled without contraction of multiply and add: sums and roundings are those of src/sample.
#include "sampling.h"

#include <cfloat>

#include "device.h"
#include "launch.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr float kNever = -INFINITY;
constexpr double kUnit = 35184372088832.0;  // 2^45: masses are counted in integers, whose sums have no order

// sample/fixed_math.h, operation for operation.
__device__ __forceinline__ float fixed_exp(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const unsigned exponent = (__float_as_uint(shifted) - 0x4B400000u + 127u) << 23;
  return x < -87.0f ? 0.0f : p * __uint_as_float(exponent);
}
__device__ __forceinline__ double fixed_log(double x) {
  const long long bits = __double_as_longlong(x);
  long long exponent = ((bits >> 52) & 0x7ff) - 1023;
  double m = __longlong_as_double((bits & 0x000FFFFFFFFFFFFFll) | 0x3FF0000000000000ll);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double t = (m - 1.0) / (m + 1.0), t2 = t * t;
  double series = 1.0 / 19;
#pragma unroll
  for (int k = 17; k >= 1; k -= 2) series = series * t2 + 1.0 / k;
  return static_cast<double>(exponent) * 0.6931471805599453 + 2.0 * t * series;
}

// Philox 4x32-10 of sample/random.h.
struct Noise {
  uint32_t key[2], counter[3];
  __device__ Noise(uint64_t seed, int32_t choice, int64_t position)
      : key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        counter{static_cast<uint32_t>(position), static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32),
                static_cast<uint32_t>(choice)} {}
  __device__ void words(uint32_t group, uint32_t (&c)[4]) const {
    c[0] = counter[0];
    c[1] = counter[1];
    c[2] = counter[2];
    c[3] = group;
    uint32_t k0 = key[0], k1 = key[1];
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint32_t a_high = __umulhi(0xD2511F53u, c[0]), a_low = 0xD2511F53u * c[0];
      const uint32_t b_high = __umulhi(0xCD9E8D57u, c[2]), b_low = 0xCD9E8D57u * c[2];
      c[0] = b_high ^ c[1] ^ k0;
      c[1] = b_low;
      c[2] = a_high ^ c[3] ^ k1;
      c[3] = a_low;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
  }
};
__device__ __forceinline__ double gumbel(uint32_t word) {
  const double uniform = (static_cast<double>(word) + 0.5) * (1.0 / 4294967296.0);
  return -fixed_log(-fixed_log(uniform));
}

__device__ __forceinline__ float finite(float s) { return s == s ? (s < FLT_MAX ? s : FLT_MAX) : kNever; }

// Unsigned order of floats that are not NaN; -0 and 0 are one.
__device__ __forceinline__ uint32_t ordered(float s) {
  const uint32_t bits = __float_as_uint(s + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

struct Work {
  unsigned long long bins[256];
  unsigned long long before, at;  // found(): what lies before the key, and what the key holds
  double sums[kWarps];
  float maxima[kWarps];
  int ids[kWarps];
  uint32_t key;
  int reached, count;
  float top_scores[kMaxTop];
  int32_t top_ids[kMaxTop];
};

// The block's row, and the work of its threads. Functions are called by all threads alike and end with a barrier.
struct Row {
  Work& work;
  float* lanes;  // shared: sums of 8 lanes per 512 scores
  int vocab;
  int tid = static_cast<int>(threadIdx.x), lane = static_cast<int>(threadIdx.x) % kWarpSize,
      warp = static_cast<int>(threadIdx.x) / kWarpSize;

  __device__ double sum(double v) {
#pragma unroll
    for (int step = kWarpSize / 2; step > 0; step /= 2) v += __shfl_xor_sync(kAllLanes, v, step);
    if (lane == 0) work.sums[warp] = v;
    __syncthreads();
    v = 0;
    for (int w = 0; w < kWarps; ++w) v += work.sums[w];
    __syncthreads();
    return v;
  }
  __device__ float max(float v) {
    v = warp_max(v);
    if (lane == 0) work.maxima[warp] = v;
    __syncthreads();
    v = kNever;
    for (int w = 0; w < kWarps; ++w) v = fmaxf(v, work.maxima[w]);
    __syncthreads();
    return v;
  }
  __device__ int min_id(int v) {
#pragma unroll
    for (int step = kWarpSize / 2; step > 0; step /= 2) {
      const int other = __shfl_xor_sync(kAllLanes, v, step);
      if (other < v) v = other;
    }
    if (lane == 0) work.ids[warp] = v;
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) v = work.ids[w] < v ? work.ids[w] : v;
    __syncthreads();
    return v;
  }

  template <class Score>
  __device__ float row_max(const Score& score) {
    float m = kNever;
    for (int i = tid; i < vocab; i += kThreads) m = score(i) > m ? score(i) : m;
    return fminf(max(m), FLT_MAX);
  }
  // Sum of e^(s - top) in the order of the host: eight lanes over 64 steps, then their sums one by one.
  template <class Score>
  __device__ double row_mass(const Score& score, float top) {
    constexpr int kLanes = 8, kBlock = 64 * kLanes;
    const int n = (vocab + kBlock - 1) / kBlock * kLanes;
    for (int task = tid; task < n; task += kThreads) {
      const int begin = task / kLanes * kBlock, l = task % kLanes;
      const int end = begin + kBlock < vocab ? begin + kBlock : vocab;
      float s = 0;
      int i = begin;
      for (; i + kLanes <= end; i += kLanes) s += fixed_exp(finite(score(i + l)) - top);
      for (; l == 0 && i < end; ++i) s += fixed_exp(finite(score(i)) - top);
      lanes[task] = s;
    }
    __syncthreads();
    if (tid == 0) {
      double total = 0;
      for (int task = 0; task < n; ++task) total += static_cast<double>(lanes[task]);
      work.sums[0] = total;
    }
    __syncthreads();
    const double total = work.sums[0];
    __syncthreads();
    return total;
  }
  // The same over what is left of a row, where the host adds one by one: equal but for the last bits of a double.
  template <class Score>
  __device__ double mass_left(const Score& score) {
    double mass = 0;
    for (int i = tid; i < vocab; i += kThreads) {
      if (score(i) > kNever) mass += static_cast<double>(fixed_exp(score(i)));
    }
    return sum(mass);
  }

  // Goes through the ids with score > -inf in ascending order of key, adding up weights, until `reached` holds of the
  // sum: that key goes to work.key, the sum before it to work.before, its own to work.at. Returns false when never.
  template <class Score, class Key, class Weight, class Reached>
  __device__ bool find(const Score& score, const Key& key, const Weight& weight, const Reached& reached) {
    uint32_t prefix = 0, known = 0;
    unsigned long long before = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      for (int b = tid; b < 256; b += kThreads) work.bins[b] = 0;
      __syncthreads();
      int bin = -1;  // neighbours often share one: they are added up first
      unsigned long long pending = 0;
      for (int i = tid; i < vocab; i += kThreads) {
        const float s = score(i);
        if (!(s > kNever)) continue;
        const uint32_t k = key(i, s);
        if ((k & known) != prefix) continue;
        const int own = static_cast<int>(k >> shift & 255);
        if (own != bin) {
          if (bin >= 0) atomicAdd(&work.bins[bin], pending);
          bin = own;
          pending = 0;
        }
        pending += weight(i, s);
      }
      if (bin >= 0) atomicAdd(&work.bins[bin], pending);
      __syncthreads();
      if (tid == 0) {
        int b = 0;
        unsigned long long so_far = before;
        while (b < 256 && (work.bins[b] == 0 || !reached(so_far + work.bins[b]))) so_far += work.bins[b++];
        work.reached = b < 256;
        work.key = prefix | static_cast<uint32_t>(b & 255) << shift;
        work.before = so_far;
        work.at = b < 256 ? work.bins[b] : 0;
      }
      __syncthreads();
      const bool stop = work.reached == 0;
      prefix = work.key;
      before = work.before;
      known |= 255u << shift;
      __syncthreads();
      if (stop) return false;
    }
    return true;
  }

  // The n best of a row, lower ids first among equals, into `out` by thread 0.
  template <class Score>
  __device__ void report_top(const Score& score, int n, double lse, TokenResult& out) {
    if (n > kMaxTop) n = kMaxTop;
    if (tid == 0) work.count = 0;
    __syncthreads();
    if (n > 0) {
      const auto best_first = [](int, float s) { return ~ordered(s); };
      const auto one = [](int, float) { return 1ull; };
      const unsigned long long wanted = static_cast<unsigned long long>(n);
      const bool full = find(score, best_first, one, [&](unsigned long long c) { return c >= wanted; });
      const uint32_t bar = full ? work.key : ~0u;
      for (int i = tid; i < vocab; i += kThreads) {
        const float s = score(i);
        if (!(s > kNever) || (full && ~ordered(s) >= bar)) continue;
        const int at = atomicAdd(&work.count, 1);
        work.top_scores[at] = s;
        work.top_ids[at] = i;
      }
      __syncthreads();
      int last = -1;
      for (int at = work.count; full && at < n; ++at) {
        int next = vocab;
        for (int i = tid; i < vocab; i += kThreads) {
          const float s = score(i);
          if (i > last && i < next && s > kNever && ~ordered(s) == bar) next = i;
        }
        last = min_id(next);
        if (tid == 0) {
          work.top_scores[at] = score(last);
          work.top_ids[at] = last;
        }
      }
    }
    __syncthreads();
    if (tid == 0) {
      const int found = n > 0 ? (work.count < n && work.reached != 0 ? n : work.count) : 0;
      out.n_top = found;
      for (int i = 0; i < kMaxTop; ++i) {
        out.top_ids[i] = 0;
        out.top_logprobs[i] = 0;
      }
      for (int i = 0; i < found; ++i) {
        const float s = work.top_scores[i];
        const int32_t id = work.top_ids[i];
        int at = i;
        for (; at > 0 && (work.top_scores[at - 1] < s || (work.top_scores[at - 1] == s && work.top_ids[at - 1] > id));
             --at) {
          work.top_scores[at] = work.top_scores[at - 1];
          work.top_ids[at] = work.top_ids[at - 1];
        }
        work.top_scores[at] = s;
        work.top_ids[at] = id;
      }
      for (int i = 0; i < found; ++i) {
        out.top_ids[i] = work.top_ids[i];
        out.top_logprobs[i] = static_cast<float>(static_cast<double>(work.top_scores[i]) - lse);
      }
    }
    __syncthreads();
  }

  // What is kept of scores[vocab], whose best is 0; the others become -inf.
  __device__ void keep_top_k(float* scores, int k) {
    const auto score = [&](int i) { return scores[i]; };
    const unsigned long long wanted = static_cast<unsigned long long>(k);
    if (!find(
            score, [](int, float s) { return ~ordered(s); }, [](int, float) { return 1ull; },
            [&](unsigned long long c) { return c >= wanted; }))
      return;
    const uint32_t bar = work.key;
    __syncthreads();
    for (int i = tid; i < vocab; i += kThreads) {
      if (scores[i] > kNever && ~ordered(scores[i]) > bar) scores[i] = kNever;
    }
    __syncthreads();
  }
  static __device__ unsigned long long units(float s) {
    return static_cast<unsigned long long>(static_cast<double>(fixed_exp(s)) * kUnit + 0.5);
  }
  __device__ void keep_top_p(float* scores, double mass, float top_p) {
    const auto score = [&](int i) { return scores[i]; };
    const auto reached = [&](unsigned long long c) {
      return !(static_cast<double>(c) / kUnit / mass < static_cast<double>(top_p));
    };
    if (!find(
            score, [](int, float s) { return ~ordered(s); }, [](int, float s) { return units(s); }, reached))
      return;
    const uint32_t bar = work.key;
    const unsigned long long before = work.before, at = work.at;
    __syncthreads();
    // Of the equal scores at the border, those with the highest ids come first.
    int first_id = 0;
    unsigned long long each = 0, ties = 0;
    {
      const uint32_t bits = ~bar;
      const float border = __uint_as_float((bits >> 31) != 0 ? bits & 0x7fffffffu : ~bits);
      each = units(border);
      ties = each > 0 ? at / each : 1;
    }
    // The fewest of them that reach top_p, counting from one where nothing is kept yet.
    unsigned long long kept = before == 0 ? 1 : 0, most = ties;
    while (kept < most) {
      const unsigned long long middle = (kept + most) / 2;
      if (reached(before + middle * each)) {
        most = middle;
      } else {
        kept = middle + 1;
      }
    }
    if (kept < ties) {
      const auto border_only = [&](int i) { return scores[i] > kNever && ~ordered(scores[i]) == bar ? 0.0f : kNever; };
      find(
          border_only, [](int i, float) { return ~static_cast<uint32_t>(i); }, [](int, float) { return 1ull; },
          [&](unsigned long long c) { return c >= kept; });
      first_id = static_cast<int>(~work.key);
      __syncthreads();
    }
    for (int i = tid; i < vocab; i += kThreads) {
      const uint32_t key = ~ordered(scores[i]);
      if (scores[i] > kNever && (key > bar || (key == bar && i < first_id))) scores[i] = kNever;
    }
    __syncthreads();
  }
  __device__ void keep_min_p(float* scores, float min_p) {
    for (int i = tid; i < vocab; i += kThreads) {
      if (scores[i] > kNever && !(fixed_exp(scores[i]) >= min_p)) scores[i] = kNever;
    }
    __syncthreads();
  }
  __device__ void keep_typical(float* scores, double mass, float typical_p) {
    const double log_mass = fixed_log(mass);
    double entropy = 0;
    for (int i = tid; i < vocab; i += kThreads) {
      if (scores[i] == kNever) continue;
      const double s = static_cast<double>(scores[i]);
      entropy += (log_mass - s) * static_cast<double>(fixed_exp(scores[i])) / mass;
    }
    entropy = sum(entropy);
    const auto distance = [&](float s) {
      return static_cast<float>(fabs(log_mass - static_cast<double>(s) - entropy));
    };
    const bool reached = find(
        [&](int i) { return scores[i]; }, [&](int, float s) { return ordered(distance(s)); },
        [](int, float s) { return units(s); },
        [&](unsigned long long c) { return static_cast<double>(c) / kUnit / mass >= static_cast<double>(typical_p); });
    if (!reached) return;
    const uint32_t bar = work.key;
    __syncthreads();
    for (int i = tid; i < vocab; i += kThreads) {
      if (scores[i] > kNever && ordered(distance(scores[i])) > bar) scores[i] = kNever;
    }
    __syncthreads();
  }

  // Gumbel-max over the scores above -inf: largest score + noise, lower id first among equals.
  __device__ int draw(const float* scores, const SlotParams& p, int64_t position) {
    const Noise noise(p.seed, p.choice, position);
    uint32_t words[4];
    // The likeliest token's value rules most others out by one comparison of the random word.
    float top = kNever;
    for (int i = tid; i < vocab; i += kThreads) top = scores[i] > top ? scores[i] : top;
    top = max(top);
    int pick = vocab;
    for (int i = tid; i < vocab && pick == vocab; i += kThreads) {
      if (scores[i] == top) pick = i;
    }
    pick = min_id(pick);
    noise.words(static_cast<uint32_t>(pick) / 4, words);
    const int word_of_pick = pick % 4;
    double best = static_cast<double>(top) + gumbel(word_of_pick == 0   ? words[0]
                                                    : word_of_pick == 1 ? words[1]
                                                    : word_of_pick == 2 ? words[2]
                                                                        : words[3]);
    for (int g = tid; g * 4 < vocab; g += kThreads) {
      bool any = false;
#pragma unroll
      for (int w = 0; w < 4; ++w) any = any || (g * 4 + w < vocab && scores[g * 4 + w] > kNever);
      if (!any) continue;
      noise.words(static_cast<uint32_t>(g), words);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const int i = g * 4 + w;
        if (i >= vocab || !(scores[i] > kNever)) continue;
        const float x = scores[i] - static_cast<float>(best);
        const float reach = fixed_exp(x < 0.0f ? x : 0.0f) * 1.0001f + 9.3132257461547852e-10f;
        const float chance = (static_cast<float>(~words[w]) + 0.5f) * 2.3283064365386963e-10f;
        if (!(chance <= reach)) continue;
        const double value = static_cast<double>(scores[i]) + gumbel(words[w]);
        if (value > best || (value == best && i < pick)) {
          best = value;
          pick = i;
        }
      }
    }
#pragma unroll
    for (int step = kWarpSize / 2; step > 0; step /= 2) {
      const double other = __shfl_xor_sync(kAllLanes, best, step);
      const int id = __shfl_xor_sync(kAllLanes, pick, step);
      if (other > best || (other == best && id < pick)) {
        best = other;
        pick = id;
      }
    }
    if (lane == 0) {
      work.sums[warp] = best;
      work.ids[warp] = pick;
    }
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) {
      if (work.sums[w] > best || (work.sums[w] == best && work.ids[w] < pick)) {
        best = work.sums[w];
        pick = work.ids[w];
      }
    }
    __syncthreads();
    return pick;
  }
};

// Bias, tokens that may not come yet, penalties: from `logits` to `scores`.
__device__ void process(const SampleParams& p, const SlotParams& slot, const uint16_t* counts, const float* logits,
                        float* scores, int64_t position) {
  const int tid = static_cast<int>(threadIdx.x), vocab = static_cast<int>(p.vocab);
  for (int i = tid; i < vocab; i += kThreads) scores[i] = logits[i];
  __syncthreads();
  for (int i = tid; i < slot.n_bias; i += kThreads) {
    const int32_t id = slot.logit_bias[i].id;
    bool first = id >= 0 && id < vocab;
    for (int j = 0; j < i && first; ++j) first = slot.logit_bias[j].id != id;
    for (int j = i; first && j < slot.n_bias; ++j) {
      if (slot.logit_bias[j].id == id) scores[id] += slot.logit_bias[j].bias;
    }
  }
  __syncthreads();
  if (position < slot.eos_from) {
    for (int i = tid; i < slot.n_eos; i += kThreads) {
      const int32_t id = slot.eos_ids[i];
      if (id >= 0 && id < vocab) scores[id] = kNever;  // named twice, written twice alike
    }
  }
  __syncthreads();
  if (counts == nullptr) return;
  for (int i = tid; i < vocab; i += kThreads) {
    const uint16_t cell = counts[i];
    if (cell == 0) continue;
    float s = scores[i];
    if (slot.repetition_penalty != 1.0f) s = s < 0 ? s * slot.repetition_penalty : s / slot.repetition_penalty;
    if (const int count = cell & 0x7fff) {
      s -= slot.frequency_penalty * static_cast<float>(count) + slot.presence_penalty;
    }
    scores[i] = s;
  }
  __syncthreads();
}

// Grid: (n), 512 threads: one entry each. Job: from a row of logits to a token, as sample_row and score_row of
// src/sample/sampler.cpp. Precondition: vocab is below 2^18 for exact masses; ids are inside their arrays.
// Bytes moved: vocab * 4 once for a greedy row, twice and once written for a plain draw, four times more per filter.
__global__ void __launch_bounds__(kThreads) sample_kernel(const SampleParams p) {
  Work& work = *shared_as<Work>();
  const int32_t* entry = p.entries + int64_t{blockIdx.x} * 4;
  const int32_t slot_id = entry[1], target = entry[3];
  const int64_t position = entry[2];
  if (entry[0] < 0 || slot_id < 0) return;
  const SlotParams& slot = p.slots[slot_id];
  const float* logits = p.logits + int64_t{entry[0]} * p.logits_stride;
  float* scores = p.scratch + int64_t{blockIdx.x} * p.vocab;
  TokenResult& out = p.out[blockIdx.x];
  Row row{work, reinterpret_cast<float*>(&work + 1), static_cast<int>(p.vocab)};
  const bool leader = threadIdx.x == 0;
  const auto raw_score = [&](int i) { return logits[i]; };

  if (target >= 0) {
    const float top = row.row_max(raw_score);
    const double lse = static_cast<double>(top) + fixed_log(row.row_mass(raw_score, top));
    row.report_top(raw_score, slot.n_logprobs, lse, out);
    if (leader) {
      out.token = target;
      out.logprob = static_cast<float>(static_cast<double>(finite(logits[target])) - lse);
    }
    return;
  }
  const bool penalty =
      slot.repetition_penalty != 1.0f || slot.frequency_penalty != 0.0f || slot.presence_penalty != 0.0f;
  uint16_t* counts = penalty ? p.counts + slot_id * p.counts_stride : nullptr;
  const bool raw = slot.n_logprobs >= 0 && slot.raw_logprobs != 0;
  const bool drawn = slot.n_logprobs >= 0 && slot.raw_logprobs == 0;
  double raw_lse = 0;
  int n_top = 0;
  if (raw) {
    const float top = row.row_max(raw_score);
    raw_lse = static_cast<double>(top) + fixed_log(row.row_mass(raw_score, top));
    n_top = slot.n_logprobs;
  }
  row.report_top(raw_score, n_top, raw_lse, out);  // of nothing: clears

  const float* from = logits;
  if (slot.n_bias > 0 || penalty || (position < slot.eos_from && slot.n_eos > 0)) {
    process(p, slot, counts, logits, scores, position);
    from = scores;
  }
  const auto score = [&](int i) { return from[i]; };
  const float top = row.row_max(score);
  int token = 0;
  float logprob = 0;
  if (top == kNever) {  // nothing may come: a caller's contradiction, kept harmless
    logprob = slot.n_logprobs >= 0 ? kNever : 0.0f;
  } else if (slot.greedy != 0) {
    int first = row.vocab;
    for (int i = row.tid; i < row.vocab && first == row.vocab; i += kThreads) {
      if (finite(from[i]) == top) first = i;
    }
    token = row.min_id(first);
    if (drawn) {
      const double lse = static_cast<double>(top) + fixed_log(row.row_mass(score, top));
      logprob = static_cast<float>(static_cast<double>(top) - lse);
      row.report_top(score, slot.n_logprobs, lse, out);
    }
  } else {
    for (int i = row.tid; i < row.vocab; i += kThreads) scores[i] = (finite(from[i]) - top) / slot.temperature;
    __syncthreads();
    const auto left = [&](int i) { return scores[i]; };
    bool whole = true;
    const auto mass = [&] { return whole ? row.row_mass(left, 0) : row.mass_left(left); };
    if (slot.top_k > 0 && slot.top_k < row.vocab) {
      row.keep_top_k(scores, slot.top_k);
      whole = false;
    }
    if (slot.top_p < 1.0f) {
      row.keep_top_p(scores, mass(), slot.top_p);
      whole = false;
    }
    if (slot.min_p > 0.0f) {
      row.keep_min_p(scores, slot.min_p);
      whole = false;
    }
    if (slot.typical_p < 1.0f) {
      row.keep_typical(scores, mass(), slot.typical_p);
      whole = false;
    }
    token = row.draw(scores, slot, position);
    if (drawn) {
      const double lse = fixed_log(mass());
      logprob = static_cast<float>(static_cast<double>(scores[token]) - lse);
      row.report_top(left, slot.n_logprobs, lse, out);
    }
  }
  if (!leader) return;
  if (raw && top != kNever) logprob = static_cast<float>(static_cast<double>(finite(logits[token])) - raw_lse);
  out.token = token;
  out.logprob = logprob;
  p.last[slot_id] = token;
  if (counts != nullptr && (counts[token] & 0x7fff) != 0x7fff) ++counts[token];
}

// Grid: (1), 512 threads. Job: clears the slot's counts, then counts its history. Bytes moved: 2 vocab + 4 n_history.
__global__ void __launch_bounds__(kThreads) history_kernel(const HistoryParams p) {
  uint32_t* words = reinterpret_cast<uint32_t*>(p.counts);  // two cells each; the stride between slots is even
  for (int64_t i = threadIdx.x; i < (p.vocab + 1) / 2; i += kThreads) words[i] = 0;
  __syncthreads();
  const int64_t prompt = p.n_history - p.n_output;
  for (int64_t i = threadIdx.x; i < p.n_history; i += kThreads) {
    const int32_t id = p.history[i];
    if (id < 0 || id >= p.vocab) continue;
    uint32_t* word = words + id / 2;
    const int shift = id % 2 * 16;
    if (i < prompt) {
      atomicOr(word, 0x8000u << shift);
      continue;
    }
    uint32_t old = atomicOr(word, 0u), seen;
    do {
      seen = old;
      if ((seen >> shift & 0x7fffu) == 0x7fffu) break;  // counts saturate
      old = atomicCAS(word, seen, seen + (1u << shift));
    } while (old != seen);
  }
}

// Grid: (rows / 512). Job: one token. Bytes moved: 12 per row.
__global__ void __launch_bounds__(kThreads) resolve_kernel(const ResolveParams p) {
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t < p.rows && p.tokens[t] < 0) p.tokens[t] = p.last[p.slots[t]];
}

}  // namespace

cudaError_t sample(const SampleParams& p, cudaStream_t stream) {
  const size_t lanes = static_cast<size_t>((p.vocab + 511) / 512) * 8;
  return launch("sample", sample_kernel, dim3(static_cast<unsigned>(p.n)), kThreads,
                sizeof(Work) + lanes * sizeof(float), stream, p);
}

cudaError_t set_history(const HistoryParams& p, cudaStream_t stream) {
  return launch("set_history", history_kernel, dim3(1), kThreads, 0, stream, p);
}

cudaError_t resolve_tokens(const ResolveParams& p, cudaStream_t stream) {
  return launch("resolve_tokens", resolve_kernel, dim3(blocks_for(p.rows, kThreads)), kThreads, 0, stream, p);
}

}  // namespace sluice::kernels
