// SPDX-License-Identifier: Apache-2.0
// One row of logits in the hands of one block: filters, masses and draws with the sums and roundings of src/sample.
// Included by sampling.cu alone, which is compiled without contraction of multiply and add.
#pragma once

#include <cfloat>

#include "device.h"
#include "launch.h"
#include "sampling.h"
#include "sampling_math.h"

namespace sluice::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr float kNever = -INFINITY;
constexpr double kUnit = 35184372088832.0;  // 2^45: masses are counted in integers, whose sums have no order

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
  // Leaves out the n best, lower ids first among equals.
  __device__ void drop_best(float* scores, int n) {
    if (n <= 0) return;
    const unsigned long long wanted = static_cast<unsigned long long>(n);
    const auto one = [](int, float) { return 1ull; };
    const bool all = !find([&](int i) { return scores[i]; }, [](int, float s) { return ~ordered(s); }, one,
                           [&](unsigned long long c) { return c >= wanted; });
    const uint32_t bar = all ? ~0u : work.key;
    const unsigned long long ties = all ? 0 : wanted - work.before;
    __syncthreads();
    int last = vocab;  // of the equal scores at the border that go too
    if (!all) {
      find([&](int i) { return ~ordered(scores[i]) == bar ? 0.0f : kNever; },
           [](int i, float) { return static_cast<uint32_t>(i); }, one, [&](unsigned long long c) { return c >= ties; });
      last = static_cast<int>(work.key);
      __syncthreads();
    }
    for (int i = tid; i < vocab; i += kThreads) {
      const uint32_t key = ~ordered(scores[i]);
      if (key < bar || (key == bar && i <= last)) scores[i] = kNever;
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
  __device__ double entropy_of(const float* scores, double mass) {
    const double log_mass = fixed_log(mass);
    double entropy = 0;
    for (int i = tid; i < vocab; i += kThreads) {
      if (scores[i] == kNever) continue;
      const double s = static_cast<double>(scores[i]);
      entropy += (log_mass - s) * static_cast<double>(fixed_exp(scores[i])) / mass;
    }
    return sum(entropy);
  }
  __device__ void keep_likely(float* scores, double mass, double least) {
    float best = kNever;
    for (int i = tid; i < vocab; i += kThreads) best = fmaxf(best, scores[i]);
    best = max(best);
    for (int i = tid; i < vocab; i += kThreads) {
      const float s = scores[i];
      if (s < best && static_cast<double>(fixed_exp(s)) / mass < least) scores[i] = kNever;
    }
    __syncthreads();
  }
  __device__ void keep_eta(float* scores, double mass, float eta) {
    const double cut = static_cast<double>(eta), entropy = entropy_of(scores, mass);
    const double spread = static_cast<double>(fixed_exp(static_cast<float>(-(entropy > 0.0 ? entropy : 0.0))));
    const double low = sqrt(cut) * spread;
    keep_likely(scores, mass, low < cut ? low : cut);
  }
  __device__ void keep_typical(float* scores, double mass, float typical_p) {
    const double log_mass = fixed_log(mass), entropy = entropy_of(scores, mass);
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
        if (before(value, i, best, pick)) {
          best = value;
          pick = i;
        }
      }
    }
    warp_first(best, pick);
    if (lane == 0) {
      work.sums[warp] = best;
      work.ids[warp] = pick;
    }
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) {
      if (before(work.sums[w], work.ids[w], best, pick)) {
        best = work.sums[w];
        pick = work.ids[w];
      }
    }
    __syncthreads();
    return pick;
  }
};

}  // namespace
}  // namespace sluice::kernels
