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
  uint32_t low[256], high[256];   // halves of the bins: shared memory adds 32 bits at once, 64 in several attempts
  unsigned long long before, at;  // found(): what lies before the key, and what the key holds
  double sums[kWarps];
  float maxima[kWarps];
  int ids[kWarps];
  uint32_t key;
  int reached, count, bin;
  float top_scores[kMaxTop];
  int32_t top_ids[kMaxTop];
};

// The first of a block's scores, in every thread; `scores` and `ids` are shared memory of one per warp.
template <class V>
__device__ __forceinline__ void block_first(V& score, int& id, V* scores, int* ids) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  warp_first(score, id);
  if (lane == 0) {
    scores[warp] = score;
    ids[warp] = id;
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) {
    if (before(scores[w], ids[w], score, id)) {
      score = scores[w];
      id = ids[w];
    }
  }
  __syncthreads();
}

// Gumbel-max over scores above -inf: the largest score + noise so far, lower id first among equals. It begins with one
// of the likeliest, whose value rules most others out by one comparison of the random word.
struct Draw {
  double value;
  int id;
  __device__ Draw(const Noise& noise, float score, int id) : id(id) {
    uint32_t words[4];
    noise.words(static_cast<uint32_t>(id) / 4, words);
    const int w = id % 4;
    value = static_cast<double>(score) + gumbel(w == 0 ? words[0] : w == 1 ? words[1] : w == 2 ? words[2] : words[3]);
  }
  // Of four ids from i on, which is a multiple of 4.
  __device__ void consider(const Noise& noise, int i, const float (&scores)[4]) {
    if (!(scores[0] > kNever || scores[1] > kNever || scores[2] > kNever || scores[3] > kNever)) return;
    uint32_t words[4];
    noise.words(static_cast<uint32_t>(i) / 4, words);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (!(scores[w] > kNever)) continue;
      const float x = scores[w] - static_cast<float>(value);
      const float reach = fixed_exp(x < 0.0f ? x : 0.0f) * 1.0001f + 9.3132257461547852e-10f;
      const float chance = (static_cast<float>(~words[w]) + 0.5f) * 2.3283064365386963e-10f;
      if (!(chance <= reach)) continue;
      const double now = static_cast<double>(scores[w]) + gumbel(words[w]);
      if (before(now, i + w, value, id)) {
        value = now;
        id = i + w;
      }
    }
  }
};

// Goes through one of `parts` parts of a row, four scores at a time: visit(id of the first, scores), -inf beyond the
// end.
template <class Visit>
__device__ __forceinline__ void each_four(const float* row, int vocab, int part, int parts, const Visit& visit) {
  constexpr int kAtOnce = 4, kStride = kThreads * 4;
  const bool aligned = reinterpret_cast<uintptr_t>(row) % 16 == 0;
  const int of_part = ((vocab + parts - 1) / parts + 3) / 4 * 4, begin = part * of_part;
  const int end = begin + of_part < vocab ? begin + of_part : vocab;
  for (int at = begin + static_cast<int>(threadIdx.x) * 4; at < end; at += kStride * kAtOnce) {
    Pack<float, 4> v[kAtOnce];
#pragma unroll
    for (int f = 0; f < kAtOnce; ++f) {
      const int i = at + f * kStride;
      if (aligned && i + 4 <= end) {
        v[f] = *reinterpret_cast<const Pack<float, 4>*>(row + i);
        continue;
      }
#pragma unroll
      for (int w = 0; w < 4; ++w) v[f].at[w] = i + w < end ? row[i + w] : kNever;
    }
#pragma unroll
    for (int f = 0; f < kAtOnce; ++f)
      if (at + f * kStride < end) visit(at + f * kStride, v[f].at);
  }
}

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

  // use(i, score(i)) for the ids of this thread in ascending order; the loads do not wait for what is done with them.
  template <class Score, class Use>
  __device__ void sweep(const Score& score, const Use& use) {
    constexpr int kAtOnce = 8;
    for (int at = tid; at < vocab; at += kThreads * kAtOnce) {
      float v[kAtOnce];
#pragma unroll
      for (int f = 0; f < kAtOnce; ++f) v[f] = at + f * kThreads < vocab ? score(at + f * kThreads) : kNever;
#pragma unroll
      for (int f = 0; f < kAtOnce; ++f)
        if (at + f * kThreads < vocab) use(at + f * kThreads, v[f]);
    }
  }
  // Adds to a bin of find().
  __device__ void add_to_bin(int bin, unsigned long long weight) {
    const uint32_t low = static_cast<uint32_t>(weight), sum = atomicAdd(&work.low[bin], low) + low;
    const uint32_t high = static_cast<uint32_t>(weight >> 32) + (sum < low ? 1 : 0);
    if (high != 0) atomicAdd(&work.high[bin], high);
  }
  __device__ unsigned long long in_bin(int bin) const {
    return static_cast<unsigned long long>(work.high[bin]) << 32 | work.low[bin];
  }

  template <class Score>
  __device__ float row_max(const Score& score) {
    float m = kNever;
    sweep(score, [&](int, float s) { m = s > m ? s : m; });
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
#pragma unroll 8
      for (; i + kLanes <= end; i += kLanes) s += fixed_exp(finite(score(i + l)) - top);
      for (; l == 0 && i < end; ++i) s += fixed_exp(finite(score(i)) - top);
      lanes[task] = s;
    }
    __syncthreads();
    if (tid == 0) {
      double total = 0;
#pragma unroll 8
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
    sweep(score, [&](int, float s) {
      if (s > kNever) mass += static_cast<double>(fixed_exp(s));
    });
    return sum(mass);
  }

  // Goes through the ids with score > -inf in ascending order of key, adding up weights, until `reached` holds of the
  // sum: that key goes to work.key, the sum before it to work.before, its own to work.at. Returns false when never.
  template <class Score, class Key, class Weight, class Reached>
  __device__ bool find(const Score& score, const Key& key, const Weight& weight, const Reached& reached) {
    uint32_t prefix = 0, known = 0;
    unsigned long long before = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      for (int b = tid; b < 256; b += kThreads) work.low[b] = work.high[b] = 0;
      if (tid == 0) {
        work.bin = 256;
        work.reached = 0;
      }
      __syncthreads();
      int bin = -1;  // neighbours often share one: they are added up first
      unsigned long long pending = 0;
      sweep(score, [&](int i, float s) {
        if (!(s > kNever)) return;
        const uint32_t k = key(i, s);
        if ((k & known) != prefix) return;
        const int own = static_cast<int>(k >> shift & 255);
        if (own != bin) {
          if (bin >= 0) add_to_bin(bin, pending);
          bin = own;
          pending = 0;
        }
        pending += weight(i, s);
      });
      if (bin >= 0) add_to_bin(bin, pending);
      __syncthreads();
      unsigned long long so_far = before;
      const unsigned long long own_bin = tid < 256 ? in_bin(tid) : 0;
      if (tid < 256) {
        for (int b = 0; b < 256; ++b) so_far += b < tid ? in_bin(b) : 0;
        if (own_bin != 0 && reached(so_far + own_bin)) atomicMin(&work.bin, tid);
      }
      __syncthreads();
      if (tid < 256 && tid == work.bin) {
        work.reached = 1;
        work.key = prefix | static_cast<uint32_t>(tid) << shift;
        work.before = so_far;
        work.at = own_bin;
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
    sweep(score, [&](int i, float s) {
      if (s > kNever && ~ordered(s) > bar) scores[i] = kNever;
    });
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
    sweep(score, [&](int i, float s) {
      const uint32_t key = ~ordered(s);
      if (s > kNever && (key > bar || (key == bar && i < first_id))) scores[i] = kNever;
    });
    __syncthreads();
  }
  __device__ void keep_min_p(float* scores, float min_p) {
    sweep([&](int i) { return scores[i]; },
          [&](int i, float s) {
            if (s > kNever && !(fixed_exp(s) >= min_p)) scores[i] = kNever;
          });
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

  __device__ int draw(const float* scores, const SlotParams& p, int64_t position) {
    const Noise noise(p.seed, p.choice, position);
    float top = kNever;
    int first = vocab;
    sweep([&](int i) { return scores[i]; },
          [&](int i, float s) {
            if (!(s > top)) return;
            top = s;
            first = i;
          });
    block_first(top, first, work.maxima, work.ids);
    if (first == vocab) first = 0;
    Draw draw(noise, top, first);
    each_four(scores, vocab, 0, 1, [&](int i, const float(&four)[4]) { draw.consider(noise, i, four); });
    block_first(draw.value, draw.id, work.sums, work.ids);
    return draw.id;
  }
};

}  // namespace
}  // namespace sluice::kernels
