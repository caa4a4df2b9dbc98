// SPDX-License-Identifier: Apache-2.0
// The bf16 product on AVX512-BF16: one instruction multiplies 16 pairs and adds them to 16 sums.
#include "backend/cpu/product.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#include <immintrin.h>

namespace sluice {
namespace {
constexpr int64_t kMaxHeight = 12;

template <int H>
inline __attribute__((always_inline)) void block_product(float* c, int64_t c_stride, const uint32_t* x,
                                                         const uint32_t* w, int64_t depth, bool continued) {
  __m512 sum[H][2];
  for (int r = 0; r < H; ++r) {
    for (int v = 0; v < 2; ++v)
      sum[r][v] = continued ? _mm512_loadu_ps(c + r * c_stride + v * 16) : _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < depth; k += 2) {
    const __m512bh left = (__m512bh)_mm512_load_si512(w), right = (__m512bh)_mm512_load_si512(w + 16);
    for (int r = 0; r < H; ++r) {
      const __m512bh row = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[r]));
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], row, left);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], row, right);
    }
    x += H;
    w += kPanel;
  }
  for (int r = 0; r < H; ++r) {
    for (int v = 0; v < 2; ++v) _mm512_storeu_ps(c + r * c_stride + v * 16, sum[r][v]);
  }
}

// Few rows: two panels side by side keep more sums in flight.
template <int H>
inline __attribute__((always_inline)) void two_panels(float* c, int64_t c_stride, const uint32_t* x, const uint32_t* w,
                                                      const uint32_t* w2, int64_t depth, bool continued) {
  __m512 sum[H][4];
  for (int r = 0; r < H; ++r) {
    for (int v = 0; v < 4; ++v)
      sum[r][v] = continued ? _mm512_loadu_ps(c + r * c_stride + v * 16) : _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < depth; k += 2) {
    const __m512bh columns[4] = {(__m512bh)_mm512_load_si512(w), (__m512bh)_mm512_load_si512(w + 16),
                                 (__m512bh)_mm512_load_si512(w2), (__m512bh)_mm512_load_si512(w2 + 16)};
    for (int r = 0; r < H; ++r) {
      const __m512bh row = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[r]));
      for (int v = 0; v < 4; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], row, columns[v]);
    }
    x += H;
    w += kPanel;
    w2 += kPanel;
  }
  for (int r = 0; r < H; ++r) {
    for (int v = 0; v < 4; ++v) _mm512_storeu_ps(c + r * c_stride + v * 16, sum[r][v]);
  }
}

template <int H>
void multiply_blocks(const ProductCall& call) {
  const auto panel = [&](int64_t p) {
    return reinterpret_cast<const uint32_t*>(static_cast<const char*>(call.w) +
                                             static_cast<size_t>(p) * call.w_panel_bytes);
  };
  const auto block = [&](int64_t b) {
    return reinterpret_cast<const uint32_t*>(static_cast<const char*>(call.x) +
                                             static_cast<size_t>(b) * call.x_block_bytes);
  };
  int64_t p = 0;
  if constexpr (H <= 6) {
    for (; p + 2 <= call.panels; p += 2) {
      for (int64_t b = 0; b < call.blocks; ++b) {
        two_panels<H>(call.c + b * H * call.c_stride + p * kPanel, call.c_stride, block(b), panel(p), panel(p + 1),
                      call.depth, call.continued);
      }
    }
  }
  for (; p < call.panels; ++p) {
    for (int64_t b = 0; b < call.blocks; ++b) {
      block_product<H>(call.c + b * H * call.c_stride + p * kPanel, call.c_stride, block(b), panel(p), call.depth,
                       call.continued);
    }
  }
}

int64_t block_height(int64_t rows) {
  if (rows >= kMaxHeight) return kMaxHeight;
  return rows <= 4 ? rows : (rows + 1) / 2 * 2;
}

void multiply(const ProductCall& call) {
  switch (call.height) {
    case 1:
      return multiply_blocks<1>(call);
    case 2:
      return multiply_blocks<2>(call);
    case 3:
      return multiply_blocks<3>(call);
    case 4:
      return multiply_blocks<4>(call);
    case 6:
      return multiply_blocks<6>(call);
    case 8:
      return multiply_blocks<8>(call);
    case 10:
      return multiply_blocks<10>(call);
    case 12:
      return multiply_blocks<12>(call);
  }
}

// [depth / 2][height] pairs of bf16.
void pack_rows(void* to, const float* x, int64_t x_stride, int64_t rows, int64_t height, int64_t cols, int64_t depth) {
  uint16_t* out = static_cast<uint16_t*>(to);
  for (int64_t r = 0; r < height; ++r) {
    const float* row = x + r * x_stride;
    const int64_t valid = r < rows ? cols : 0;
    for (int64_t k = 0; k < depth; ++k)
      out[(k / 2 * height + r) * 2 + k % 2] = k < valid ? f32_to_bf16(row[k]) : uint16_t{0};
  }
}
}  // namespace

const ProductKernel* pair_product() {
  static constexpr ProductKernel kKernel{"avx512-bf16", kMaxHeight, 2, block_height, pack_rows, multiply};
  return &kKernel;
}

}  // namespace sluice
#pragma GCC pop_options
#else
namespace sluice {
const ProductKernel* pair_product() { return nullptr; }
}  // namespace sluice
#endif
