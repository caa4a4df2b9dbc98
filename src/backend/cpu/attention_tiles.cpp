// SPDX-License-Identifier: Apache-2.0
// Attention over a bf16 cache on AMX. Keys are the left operand, so that they are used as they lie in the cache: scores
// come out as [keys, queries], a vector holds one key's scores for 16 queries, and the softmax needs no sum across
// lanes. Queries and softmax weights are rounded to bf16, sums are f32.
#include <algorithm>
#include <cstring>

#include "backend/cpu/attention.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")
// GCC 12 takes the undefined operands inside its own intrinsics for a mistake.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

namespace sluice {
namespace {
constexpr float kNone = -1e30f;    // the running maximum before any key; finite, so that differences are defined
constexpr float kMasked = -1e38f;  // score of a key that does not count, before its scale; below kNone after it

int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Working memory of a tile of `queries`, padded to R; D elements of a head, padded to Dk as inner and Dv as outer size.
struct Work {
  int64_t r, dk, dv;
  uint16_t* q;                      // [R / 16][Dk / 32] tiles of [16 pairs of d][16 queries][2]
  uint16_t* k;                      // [kKeys][Dk]
  uint16_t* v;                      // [kKeys / 2][Dv][2]
  float* scores;                    // [kKeys][R]
  uint16_t* weights;                // [R / 16][kKeys / 32] tiles of [16 queries][32 keys]
  float* sums;                      // [R][Dv]
  float *maxima, *totals, *shrink;  // [R]
  float* slopes;                    // [R]
  int32_t* position;                // [R], of the query

  Work(void* scratch, int64_t queries, int64_t head_dim)
      : r(padded(queries, 16)), dk(padded(head_dim, 32)), dv(padded(head_dim, 16)) {
    char* at = static_cast<char*>(scratch);
    const auto take = [&](int64_t bytes) {
      char* here = at;
      at += padded(bytes, 64);
      return static_cast<void*>(here);
    };
    q = static_cast<uint16_t*>(take(r * dk * 2));
    k = static_cast<uint16_t*>(take(kKeys * dk * 2));
    v = static_cast<uint16_t*>(take(kKeys * dv * 2));
    scores = static_cast<float*>(take(kKeys * r * 4));
    weights = static_cast<uint16_t*>(take(kKeys * r * 2));
    sums = static_cast<float*>(take(r * dv * 4));
    maxima = static_cast<float*>(take(r * 4));
    totals = static_cast<float*>(take(r * 4));
    shrink = static_cast<float*>(take(r * 4));
    slopes = static_cast<float*>(take(r * 4));
    position = static_cast<int32_t*>(take(r * 4));
    bytes = static_cast<size_t>(at - static_cast<char*>(scratch));
  }
  size_t bytes;
};

size_t scratch_bytes(int64_t queries, int64_t head_dim) { return Work(nullptr, queries, head_dim).bytes; }

void set_queries(const AttentionTile& tile, const Work& work) {
  const int64_t queries = tile.rows * tile.group, dim = tile.head_dim;
  std::memset(work.q, 0, static_cast<size_t>(work.r * work.dk) * 2);
  std::memset(work.sums, 0, static_cast<size_t>(work.r * work.dv) * 4);
  for (int64_t i = 0; i < work.r; ++i) {
    const int64_t row = std::min(i, queries - 1) / tile.group, head = i % tile.group;
    work.maxima[i] = kNone;
    work.totals[i] = 0;
    work.slopes[i] = tile.slopes != nullptr ? tile.slopes[head] : 0.0f;
    work.position[i] = static_cast<int32_t>(tile.first_position + row);
    if (i >= queries) continue;
    const float* from = tile.q + row * tile.q_stride + head * dim;
    auto* to = reinterpret_cast<uint32_t*>(work.q) + i / 16 * work.dk * 8 + i % 16;
    for (int64_t d = 0; d < dim; d += 16, to += 8 * 16) {
      const __mmask16 some = d + 16 <= dim ? ~__mmask16{0} : static_cast<__mmask16>((1u << (dim - d)) - 1);
      alignas(32) uint32_t pairs[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(pairs),
                         (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(some, from + d)));
      for (int64_t e = 0; e < 8; ++e) to[e * 16] = pairs[e];
    }
  }
}

// Keys [begin, begin + n) as rows, and values as pairs of rows; what is missing of kKeys becomes zeros.
void gather(const AttentionTile& tile, const Work& work, int64_t begin, int64_t n) {
  const int64_t dim = tile.head_dim;
  int64_t place[kKeys];
  place_keys(tile, begin, n, place);
  alignas(64) static constexpr uint16_t kZeros[256] = {};
  const auto* keys = static_cast<const uint16_t*>(tile.k);
  const auto* values = static_cast<const uint16_t*>(tile.v);
  for (int64_t j = 0; j < kKeys; ++j) {
    const uint16_t* from = j < n ? keys + place[j] : kZeros;
    uint16_t* to = work.k + j * work.dk;
    for (int64_t d = 0; d < work.dk; d += 32) {
      const __mmask32 some = d + 32 <= dim ? ~__mmask32{0} : static_cast<__mmask32>((1ull << (dim - d)) - 1);
      _mm512_store_si512(to + d, _mm512_maskz_loadu_epi16(some, from + d));
    }
  }
  for (int64_t j = 0; j < kKeys; j += 2) {
    const uint16_t* even = j < n ? values + place[j] : kZeros;
    const uint16_t* odd = j + 1 < n ? values + place[j + 1] : kZeros;
    uint16_t* to = work.v + j * work.dv;
    for (int64_t d = 0; d < work.dv; d += 16) {
      const __mmask16 some = d + 16 <= dim ? ~__mmask16{0} : static_cast<__mmask16>((1u << (dim - d)) - 1);
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, even + d));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, odd + d));
      _mm512_store_si512(to + 2 * d, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

// scores [kKeys][16 queries of one tile] = keys * queries.
void score(const Work& work, int64_t query_tile) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const uint16_t* q = work.q + query_tile * work.dk * 16;
  const int64_t key_bytes = work.dk * 2;
  for (int64_t d = 0; d < work.dk; d += 32, q += 512) {
    const uint16_t* k = work.k + d;
    _tile_loadd(4, q, 64);
    _tile_loadd(5, k, key_bytes);
    _tile_dpbf16ps(0, 5, 4);
    _tile_loadd(6, k + 16 * work.dk, key_bytes);
    _tile_dpbf16ps(1, 6, 4);
    _tile_loadd(5, k + 32 * work.dk, key_bytes);
    _tile_dpbf16ps(2, 5, 4);
    _tile_loadd(6, k + 48 * work.dk, key_bytes);
    _tile_dpbf16ps(3, 6, 4);
  }
  float* to = work.scores + query_tile * 16;
  const int64_t row_bytes = work.r * 4;
  _tile_stored(0, to, row_bytes);
  _tile_stored(1, to + 16 * work.r, row_bytes);
  _tile_stored(2, to + 32 * work.r, row_bytes);
  _tile_stored(3, to + 48 * work.r, row_bytes);
}

// e^x for x <= 0 with a relative error below 2^-22, and 0 below -86: a denormal result would cost a hundred cycles.
inline __m512 exponential(__m512 x) {
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-86.0f), _CMP_GT_OQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.0f / 720);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  const __m512i scaled = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23));
  return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(counts, scaled));
}

// With an absolute error below 2^-22.
inline __m512 hyperbolic_tangent(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f), sign = _mm512_set1_ps(-0.0f);
  const __m512 t = exponential(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-2.0f)));
  const __m512 size = _mm512_div_ps(_mm512_sub_ps(one, t), _mm512_add_ps(one, t));
  return _mm512_or_ps(size, _mm512_and_ps(x, sign));
}

// 16 vectors of 16 words become the columns of `to` [16][16].
inline void transpose(const __m512i (&rows)[16], uint16_t* to) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 4) {  // within 128-bit lanes, four rows at a time
    const __m512i low0 = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    const __m512i high0 = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    const __m512i low1 = _mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]);
    const __m512i high1 = _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]);
    a[i] = _mm512_unpacklo_epi64(low0, low1);
    a[i + 1] = _mm512_unpackhi_epi64(low0, low1);
    a[i + 2] = _mm512_unpacklo_epi64(high0, high1);
    a[i + 3] = _mm512_unpackhi_epi64(high0, high1);
  }
  for (int i = 0; i < 4; ++i) {  // then the lanes themselves
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_store_si512(to + 32 * i, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
    _mm512_store_si512(to + 32 * (i + 8), _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    _mm512_store_si512(to + 32 * (i + 4), _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88));
    _mm512_store_si512(to + 32 * (i + 12), _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xdd));
  }
}

// Soft cap, ALiBi and the keys that do not count, for 16 queries over keys [begin, begin + kKeys): after this a score
// is what the column holds times the factor that is returned.
float mask(const AttentionTile& tile, const Work& work, int64_t first, int64_t begin) {
  const __m512i position = _mm512_load_si512(work.position + first);
  const __m512i start = _mm512_set1_epi32(static_cast<int>(begin));
  const __m512i last = _mm512_sub_epi32(position, start);  // the last key that counts, from `begin`
  const int window = static_cast<int>(std::min<int64_t>(tile.window, 1 << 30));
  const __m512i oldest =
      window > 0 ? _mm512_sub_epi32(last, _mm512_set1_epi32(window - 1)) : _mm512_set1_epi32(-1 << 30);
  const bool alibi = tile.slopes != nullptr, capped = tile.soft_cap != 0;
  const bool all = _mm512_cmplt_epi32_mask(last, _mm512_set1_epi32(kKeys - 1)) == 0 &&
                   _mm512_cmpgt_epi32_mask(oldest, _mm512_setzero_si512()) == 0;
  if (all && !alibi && !capped) return tile.scale;
  const __m512 cap = _mm512_set1_ps(tile.soft_cap);
  const __m512 inner = _mm512_set1_ps(capped ? tile.scale / tile.soft_cap : 0.0f);
  const __m512 scale = _mm512_set1_ps(capped ? 1.0f : tile.scale), slopes = _mm512_load_ps(work.slopes + first);
  const __m512 distance = _mm512_cvtepi32_ps(_mm512_sub_epi32(start, position));  // of key 0; exact below 2^24
  float* column = work.scores + first;
  for (int j = 0; j < kKeys; ++j) {
    __m512 s = _mm512_load_ps(column + j * work.r);
    if (capped) s = _mm512_mul_ps(hyperbolic_tangent(_mm512_mul_ps(s, inner)), cap);
    if (alibi) {
      const __m512 away = _mm512_add_ps(distance, _mm512_set1_ps(static_cast<float>(j)));
      s = _mm512_fmadd_ps(slopes, away, _mm512_mul_ps(s, scale));
    }
    const __m512i key = _mm512_set1_epi32(j);
    const __mmask16 counts = _mm512_cmple_epi32_mask(key, last) & _mm512_cmpge_epi32_mask(key, oldest);
    _mm512_store_ps(column + j * work.r, _mm512_mask_blend_ps(counts, _mm512_set1_ps(kMasked), s));
  }
  return alibi || capped ? 1.0f : tile.scale;
}

// Scores of 16 queries over keys [begin, begin + kKeys) become weights against the running maximum.
void weigh(const AttentionTile& tile, const Work& work, int64_t query_tile, int64_t begin) {
  const int64_t first = query_tile * 16;
  const __m512 factor = _mm512_set1_ps(mask(tile, work, first, begin));
  const float* column = work.scores + first;
  __m512 best[4];
  for (int i = 0; i < 4; ++i) best[i] = _mm512_load_ps(column + i * work.r);
  for (int64_t j = 4; j < kKeys; j += 4) {
    for (int i = 0; i < 4; ++i) best[i] = _mm512_max_ps(best[i], _mm512_load_ps(column + (j + i) * work.r));
  }
  const __m512 highest = _mm512_max_ps(_mm512_max_ps(best[0], best[1]), _mm512_max_ps(best[2], best[3]));
  const __m512 before = _mm512_load_ps(work.maxima + first);
  const __m512 top = _mm512_max_ps(before, _mm512_mul_ps(highest, factor));
  const __m512 shrink = exponential(_mm512_sub_ps(before, top));
  __m512 total = _mm512_mul_ps(_mm512_load_ps(work.totals + first), shrink);
  for (int half = 0; half < 2; ++half) {
    __m512i pairs[16];
    for (int i = 0; i < 16; ++i) {
      const float* at = column + (half * 32 + 2 * i) * work.r;
      const __m512 even = exponential(_mm512_fmsub_ps(_mm512_load_ps(at), factor, top));
      const __m512 odd = exponential(_mm512_fmsub_ps(_mm512_load_ps(at + work.r), factor, top));
      total = _mm512_add_ps(_mm512_add_ps(total, even), odd);
      const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
      const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
      pairs[i] = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
    }
    transpose(pairs, work.weights + (query_tile * 2 + half) * 512);
  }
  _mm512_store_ps(work.totals + first, total);
  _mm512_store_ps(work.maxima + first, top);
  _mm512_store_ps(work.shrink + first, shrink);
  if (_mm512_cmpneq_ps_mask(before, top) == 0) return;
  for (int64_t i = first; i < first + 16; ++i) {
    const __m512 less = _mm512_set1_ps(work.shrink[i]);
    for (int64_t d = 0; d < work.dv; d += 16) {
      float* sum = work.sums + i * work.dv + d;
      _mm512_store_ps(sum, _mm512_mul_ps(_mm512_load_ps(sum), less));
    }
  }
}

// sums [16 queries of one tile][Dv] += weights * values.
void add_values(const Work& work, int64_t query_tile) {
  const int64_t row_bytes = work.dv * 4;
  const uint16_t* weights = work.weights + query_tile * 1024;
  _tile_loadd(4, weights, 64);
  _tile_loadd(5, weights + 512, 64);
  int64_t d = 0;
  for (; d + 64 <= work.dv; d += 64) {
    float* sums = work.sums + query_tile * 16 * work.dv + d;
    const uint16_t *low = work.v + 2 * d, *high = low + 32 * work.dv;  // keys 0-31 and 32-63
    _tile_loadd(0, sums, row_bytes);
    _tile_loadd(6, low, row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(1, sums + 16, row_bytes);
    _tile_loadd(7, low + 32, row_bytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(2, sums + 32, row_bytes);
    _tile_loadd(6, low + 64, row_bytes);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(3, sums + 48, row_bytes);
    _tile_loadd(7, low + 96, row_bytes);
    _tile_dpbf16ps(3, 4, 7);
    _tile_loadd(6, high, row_bytes);
    _tile_dpbf16ps(0, 5, 6);
    _tile_loadd(7, high + 32, row_bytes);
    _tile_dpbf16ps(1, 5, 7);
    _tile_loadd(6, high + 64, row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_loadd(7, high + 96, row_bytes);
    _tile_dpbf16ps(3, 5, 7);
    _tile_stored(0, sums, row_bytes);
    _tile_stored(1, sums + 16, row_bytes);
    _tile_stored(2, sums + 32, row_bytes);
    _tile_stored(3, sums + 48, row_bytes);
  }
  for (; d < work.dv; d += 16) {
    float* sums = work.sums + query_tile * 16 * work.dv + d;
    const uint16_t* v = work.v + 2 * d;
    _tile_loadd(0, sums, row_bytes);
    _tile_loadd(6, v, row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, v + 32 * work.dv, row_bytes);
    _tile_dpbf16ps(0, 5, 7);
    _tile_stored(0, sums, row_bytes);
  }
}

void run(const AttentionTile& tile, void* scratch) {
  const Work work(scratch, tile.rows * tile.group, tile.head_dim);
  set_queries(tile, work);
  const TileConfig config;
  _tile_loadconfig(&config);
  const int64_t end = tile.end();
  for (int64_t begin = tile.first_key() / kKeys * kKeys; begin < end; begin += kKeys) {
    gather(tile, work, begin, std::min(kKeys, end - begin));
    // In three rounds, because a tile load waits for the stores it reads to leave the core.
    const int64_t query_tiles = work.r / 16;
    for (int64_t i = 0; i < query_tiles; ++i) score(work, i);
    for (int64_t i = 0; i < query_tiles; ++i) weigh(tile, work, i, begin);
    for (int64_t i = 0; i < query_tiles; ++i) add_values(work, i);
  }
  _tile_release();
  for (int64_t i = 0; i < tile.rows * tile.group; ++i) {
    float* to = tile.out + i / tile.group * tile.out_stride + i % tile.group * tile.head_dim;
    const float share = share_of_sums(tile, i % tile.group, work.maxima[i], work.totals[i]);
    for (int64_t d = 0; d < tile.head_dim; ++d) to[d] = work.sums[i * work.dv + d] * share;
  }
}
}  // namespace

const AttentionKernel* attention_tile_kernel() {
  static constexpr AttentionKernel kKernel{scratch_bytes, run};
  return &kKernel;
}

}  // namespace sluice
#pragma GCC pop_options
#else
namespace sluice {
const AttentionKernel* attention_tile_kernel() { return nullptr; }
}  // namespace sluice
#endif
