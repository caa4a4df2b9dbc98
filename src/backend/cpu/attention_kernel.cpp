// SPDX-License-Identifier: Apache-2.0
// One tile: for each block of keys, scores = Q K^T, softmax weights against the running maximum, sums += weights V.
// Keys are widened and transposed, values widened, once for all queries of the tile. Few queries take values, and bf16
// keys in pairs, as they are stored; the sums are the same.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "backend/cpu/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention_kernel.cpp"
#define HWY_DISABLED_TARGETS (HWY_SSE4 | HWY_AVX3_DL)
// First, because it includes this file once per target.
#include <hwy/foreach_target.h>

#include <hwy/highway.h>
//
#include <hwy/contrib/math/math-inl.h>

#include "backend/cpu/convert-inl.h"
#include "backend/cpu/dispatch.h"

HWY_BEFORE_NAMESPACE();
namespace sluice {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(F32()));
constexpr int kWide = HWY_TARGET <= HWY_AVX3 ? 4 : 2;  // vectors of columns held at once
constexpr int kHigh = 6;                               // rows held at once
constexpr int64_t kFew = 8;                            // queries: up to here keys and values are not worth a copy
constexpr float kNever = -std::numeric_limits<float>::infinity();

int64_t padded_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Working memory of a tile: R queries, D = padded_dim(head_dim).
struct Work {
  float *q, *sums;         // [R][D]
  float* scores;           // [R][kKeys], then the softmax weights
  float* keys;             // [D][kKeys], transposed
  float* values;           // [kKeys][D]
  float *maxima, *totals;  // [R]
};

size_t scratch_bytes(int64_t queries, int64_t head_dim) {
  const int64_t d = padded_dim(head_dim), padded = (queries + 15) / 16 * 16;
  return static_cast<size_t>(2 * padded * d + padded * kKeys + 2 * kKeys * d + 2 * padded) * sizeof(float);
}

Work split(void* scratch, int64_t queries, int64_t head_dim) {
  const int64_t d = padded_dim(head_dim), padded = (queries + 15) / 16 * 16;
  Work work;
  work.q = static_cast<float*>(scratch);
  work.sums = work.q + padded * d;
  work.scores = work.sums + padded * d;
  work.keys = work.scores + padded * kKeys;
  work.values = work.keys + kKeys * d;
  work.maxima = work.values + kKeys * d;
  work.totals = work.maxima + padded;
  return work;
}

// Right sides of a product, [depth][...]: vectors of lanes from `column` of row k.
struct Wide {
  const float* rows;
  int64_t stride;
  HWY_INLINE VF load(int64_t k, int64_t column) const { return hn::LoadU(F32(), rows + k * stride + column); }
};
// Rows of bf16 in pairs: 32-bit words, [depth / 2][kKeys].
struct Pairs {
  const float* words;
  HWY_INLINE VF load(int64_t k, int64_t column) const {
    const U32 du;
    const auto both = hn::BitCast(du, hn::LoadU(F32(), words + k / 2 * kKeys + column));
    const auto here = hn::ShiftLeftSame(both, k % 2 == 0 ? 16 : 0);
    return hn::BitCast(F32(), hn::And(here, hn::Set(du, 0xffff0000u)));
  }
};
template <class Stored>
struct Paged {
  const typename Stored::Element* first;
  const int64_t* place;
  HWY_INLINE VF load(int64_t k, int64_t column) const { return Stored::load(first + place[k] + column); }
};

// c [R rows][N vectors] (+)= a [R][depth] * b; one chain per element, in ascending depth.
template <int R, int N, class B>
HWY_INLINE void patch(float* HWY_RESTRICT c, int64_t c_stride, const float* HWY_RESTRICT a, int64_t a_stride,
                      const B& b, int64_t at, int64_t depth, bool continued) {
  const F32 d;
  VF sum[R][N];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < N; ++v) sum[r][v] = continued ? hn::LoadU(d, c + r * c_stride + v * kLanes) : hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; ++k) {
    VF column[N];
    for (int v = 0; v < N; ++v) column[v] = b.load(k, at + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const VF row = hn::Set(d, a[r * a_stride + k]);
      for (int v = 0; v < N; ++v) sum[r][v] = hn::MulAdd(row, column[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < N; ++v) hn::StoreU(sum[r][v], d, c + r * c_stride + v * kLanes);
  }
}

template <int R, class B>
HWY_INLINE void strip(float* c, int64_t c_stride, const float* a, int64_t a_stride, const B& b, int64_t columns,
                      int64_t depth, bool continued) {
  int64_t column = 0;
  for (; column + kWide * kLanes <= columns; column += kWide * kLanes)
    patch<R, kWide>(c + column, c_stride, a, a_stride, b, column, depth, continued);
  for (; column < columns; column += kLanes)
    patch<R, 1>(c + column, c_stride, a, a_stride, b, column, depth, continued);
}

// c [rows][c_stride] (+)= a [rows][a_stride] * b, the first `columns` of each row, a multiple of 16.
template <class B>
void product(float* c, int64_t c_stride, const float* a, int64_t a_stride, const B& b, int64_t rows, int64_t columns,
             int64_t depth, bool continued) {
  int64_t r = 0;
  for (; r + kHigh <= rows; r += kHigh)
    strip<kHigh>(c + r * c_stride, c_stride, a + r * a_stride, a_stride, b, columns, depth, continued);
  for (; r + 4 <= rows; r += 4)
    strip<4>(c + r * c_stride, c_stride, a + r * a_stride, a_stride, b, columns, depth, continued);
  for (; r < rows; ++r) strip<1>(c + r * c_stride, c_stride, a + r * a_stride, a_stride, b, columns, depth, continued);
}

// 4 rows become 4 columns of `to`, four elements at a time; n is a multiple of 4.
HWY_INLINE void transpose_four(const float* first, const float* second, const float* third, const float* fourth,
                               float* to, int64_t to_stride, int64_t n) {
  const hn::FixedTag<float, 4> d;
  const hn::Repartition<double, decltype(d)> dd;
  for (int64_t i = 0; i < n; i += 4) {
    const auto a = hn::LoadU(d, first + i), b = hn::LoadU(d, second + i);
    const auto c = hn::LoadU(d, third + i), e = hn::LoadU(d, fourth + i);
    const auto ab = hn::BitCast(dd, hn::InterleaveLower(d, a, b)), AB = hn::BitCast(dd, hn::InterleaveUpper(d, a, b));
    const auto ce = hn::BitCast(dd, hn::InterleaveLower(d, c, e)), CE = hn::BitCast(dd, hn::InterleaveUpper(d, c, e));
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, ab, ce)), d, to + i * to_stride);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, ab, ce)), d, to + (i + 1) * to_stride);
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, AB, CE)), d, to + (i + 2) * to_stride);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, AB, CE)), d, to + (i + 3) * to_stride);
  }
}

// n rows at `place` of `from`, widened and filled up with zeros to padded_dim(dim).
template <class Stored>
void widen_rows(const void* from, const int64_t* place, int64_t n, int64_t dim, float* to) {
  const int64_t d = padded_dim(dim);
  for (int64_t j = 0; j < n; ++j, to += d) {
    const auto* row = static_cast<const typename Stored::Element*>(from) + place[j];
    int64_t i = 0;
    for (; i + kLanes <= dim; i += kLanes) hn::StoreU(Stored::load(row + i), F32(), to + i);
    for (; i < dim; ++i) to[i] = Stored::load_one(row + i);
    for (; i < d; ++i) to[i] = 0;
  }
}

// scores = Q K^T for n keys; those of further keys, up to the next multiple of 16, are noise.
template <class Stored>
void score(const AttentionTile& tile, const Work& work, const int64_t* place, int64_t n, bool few) {
  const int64_t dim = tile.head_dim, d = padded_dim(dim), queries = tile.rows * tile.group;
  const int64_t columns = (n + 15) / 16 * 16;
  if (few && std::is_same_v<Stored, StoredBF16>) {
    const auto row = [&](int64_t j) {
      return reinterpret_cast<const float*>(static_cast<const uint16_t*>(tile.k) + place[std::min(j, n - 1)]);
    };
    for (int64_t j = 0; j < n; j += 4)
      transpose_four(row(j), row(j + 1), row(j + 2), row(j + 3), work.keys + j, kKeys, dim / 2);
    return product(work.scores, kKeys, work.q, d, Pairs{work.keys}, queries, columns, dim, false);
  }
  // Keys pass through `values` on their way to the transposed form.
  widen_rows<Stored>(tile.k, place, n, dim, work.values);
  for (int64_t j = 0; j < n; j += 4) {
    const float* row = work.values + j * d;
    transpose_four(row, row + d, row + 2 * d, row + 3 * d, work.keys + j, kKeys, d);
  }
  product(work.scores, kKeys, work.q, d, Wide{work.keys, kKeys}, queries, columns, d, false);
}

// sums += weights V for n keys.
template <class Stored>
void add_values(const AttentionTile& tile, const Work& work, const int64_t* place, int64_t n, bool few) {
  const int64_t d = padded_dim(tile.head_dim), queries = tile.rows * tile.group;
  if (few) {
    const Paged<Stored> values{static_cast<const typename Stored::Element*>(tile.v), place};
    return product(work.sums, d, work.scores, kKeys, values, queries, d, n, true);
  }
  widen_rows<Stored>(tile.v, place, n, tile.head_dim, work.values);
  product(work.sums, d, work.scores, kKeys, Wide{work.values, d}, queries, d, n, true);
}

// scores = scores * scale + bias by distance, for keys [begin, begin + kKeys) of a query at `position`.
HWY_INLINE void add_distance_bias(float* scores, float scale, const float* biases, int64_t reach, int64_t position,
                                  int64_t begin) {
  const F32 df;
  const VF scales = hn::Set(df, scale);
  const int64_t first = begin - position + reach;  // of the row of biases
  if (first >= 0 && first + kKeys <= 2 * reach + 1) {
    for (int64_t j = 0; j < kKeys; j += kLanes)
      hn::Store(hn::MulAdd(hn::Load(df, scores + j), scales, hn::LoadU(df, biases + first + j)), df, scores + j);
    return;
  }
  float values[kKeys];
  for (int64_t j = 0; j < kKeys; ++j) values[j] = biases[std::clamp<int64_t>(first + j, 0, 2 * reach)];
  for (int64_t j = 0; j < kKeys; j += kLanes)
    hn::Store(hn::MulAdd(hn::Load(df, scores + j), scales, hn::LoadU(df, values + j)), df, scores + j);
}

// scores = (scores + bf16(slope * key)) * scale for keys [begin, begin + kKeys).
HWY_INLINE void add_rounded_slope(float* scores, float scale, float slope, int64_t begin) {
  for (int64_t j = 0; j < kKeys; ++j)
    scores[j] = (scores[j] + bf16_to_f32(f32_to_bf16(slope * static_cast<float>(begin + j)))) * scale;
}

// Scores of one query over keys [begin, begin + kKeys), of which [low, high) count, become weights; sums and total are
// rescaled when the maximum rises.
HWY_INLINE void weigh(float* scores, float scale, float cap, float slope, int64_t position, int64_t begin, int64_t low,
                      int64_t high, float* sums, int64_t d, float& maximum, float& total) {
  const F32 df;
  const VF scales = hn::Set(df, scale), slopes = hn::Set(df, slope), never = hn::Set(df, kNever);
  const VF lows = hn::Set(df, static_cast<float>(low)), highs = hn::Set(df, static_cast<float>(high));
  const VF here = hn::Set(df, static_cast<float>(begin - position));  // distance of key 0; exact below 2^24
  VF best = never;
  for (int64_t j = 0; j < kKeys; j += kLanes) {
    const VF key = hn::Iota(df, static_cast<float>(j));
    VF s = hn::Mul(hn::Load(df, scores + j), scales);
    if (cap != 0) s = hn::Mul(hn::Tanh(df, hn::Mul(s, hn::Set(df, 1.0f / cap))), hn::Set(df, cap));
    if (slope != 0) s = hn::MulAdd(slopes, hn::Add(here, key), s);
    s = hn::IfThenElse(hn::And(hn::Ge(key, lows), hn::Lt(key, highs)), s, never);
    hn::Store(s, df, scores + j);
    best = hn::Max(best, s);
  }
  const float top = std::max(maximum, hn::GetLane(hn::MaxOfLanes(df, best)));
  if (top == kNever) {
    for (int64_t j = 0; j < kKeys; j += kLanes) hn::Store(hn::Zero(df), df, scores + j);
    return;
  }
  VF weights = hn::Zero(df);
  const VF tops = hn::Set(df, top);
  for (int64_t j = 0; j < kKeys; j += kLanes) {
    const VF w = hn::Exp(df, hn::Sub(hn::Load(df, scores + j), tops));
    hn::Store(w, df, scores + j);
    weights = hn::Add(weights, w);
  }
  if (top != maximum) {
    const float shrink = std::exp(maximum - top);
    const VF shrinks = hn::Set(df, shrink);
    for (int64_t i = 0; i < d; i += kLanes) hn::Store(hn::Mul(hn::Load(df, sums + i), shrinks), df, sums + i);
    total *= shrink;
    maximum = top;
  }
  total += hn::GetLane(hn::SumOfLanes(df, weights));
}

void run(const AttentionTile& tile, void* scratch) {
  const int64_t dim = tile.head_dim, d = padded_dim(dim), queries = tile.rows * tile.group;
  const bool few = queries <= kFew && dim % 16 == 0;
  const Work work = split(scratch, queries, dim);
  for (int64_t i = 0; i < queries; ++i) {
    const float* from = tile.q + i / tile.group * tile.q_stride + i % tile.group * dim;
    std::copy(from, from + dim, work.q + i * d);
    std::fill(work.q + i * d + dim, work.q + (i + 1) * d, 0.0f);
    std::fill(work.sums + i * d, work.sums + (i + 1) * d, 0.0f);
    work.maxima[i] = kNever;
    work.totals[i] = 0;
  }
  const int64_t end = tile.end();
  for (int64_t begin = tile.first_key() / kKeys * kKeys; begin < end; begin += kKeys) {
    const int64_t n = std::min(kKeys, end - begin);
    int64_t place[kKeys];
    place_keys(tile, begin, n, place);
    with_stored(tile.dtype, [&]<class S>(S) HWY_ATTR { score<S>(tile, work, place, n, few); });
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t position = tile.first_position + i / tile.group;
      const int64_t low = tile.window > 0 ? position - tile.window + 1 - begin : -begin;
      const int64_t high = (tile.all_keys > 0 ? end : position + 1) - begin;
      float slope = tile.slopes != nullptr ? tile.slopes[i % tile.group] : 0.0f, scale = tile.scale;
      float* scores = work.scores + i * kKeys;
      if (tile.biases != nullptr) {
        add_distance_bias(scores, scale, tile.biases + i % tile.group * (2 * tile.reach + 1), tile.reach, position,
                          begin);
        scale = 1;
      } else if (tile.slopes_rounded) {
        add_rounded_slope(scores, scale, slope, begin);
        scale = 1, slope = 0;
      }
      weigh(scores, scale, tile.soft_cap, slope, position, begin, low, high, work.sums + i * d, d, work.maxima[i],
            work.totals[i]);
    }
    with_stored(tile.dtype, [&]<class S>(S) HWY_ATTR { add_values<S>(tile, work, place, n, few); });
  }
  for (int64_t i = 0; i < queries; ++i) {
    float* to = tile.out + i / tile.group * tile.out_stride + i % tile.group * dim;
    const float share = share_of_sums(tile, i % tile.group, work.maxima[i], work.totals[i]);
    for (int64_t j = 0; j < dim; ++j) to[j] = work.sums[i * d + j] * share;
  }
}

const AttentionKernel* get_attention_kernel() {
  static constexpr AttentionKernel kKernel{scratch_bytes, run};
  return &kKernel;
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {
HWY_EXPORT(get_attention_kernel);
const AttentionKernel& attention_kernel(int64_t vector_targets) {
  return *SLUICE_DISPATCH(get_attention_kernel, vector_targets)();
}
}  // namespace sluice
#endif
