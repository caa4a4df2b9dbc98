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

// c [H][32] over one block of rows and one panel. kFetch: meanwhile half as many bytes from `ahead` on are called into
// the second-level cache.
template <int H, bool kFetch>
inline __attribute__((always_inline)) void block_product(float* c, int64_t c_stride, const uint32_t* x,
                                                         const uint32_t* w, int64_t depth, bool continued,
                                                         const char* ahead = nullptr) {
  __m512 sum[H][2];
  for (int r = 0; r < H; ++r) {
    for (int v = 0; v < 2; ++v)
      sum[r][v] = continued ? _mm512_loadu_ps(c + r * c_stride + v * 16) : _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < depth; k += 2) {
    if (kFetch) _mm_prefetch(ahead + k * 32, _MM_HINT_T1);
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
  for (int64_t p = 0; p < call.panels; ++p) {
    float* c = call.c + p * kPanel;
    const auto multiply = [&]<bool kFetch>(int64_t b, const char* ahead) {
      block_product<H, kFetch>(c + b * H * call.c_stride, call.c_stride, block(b), panel(p), call.depth, call.continued,
                               ahead);
    };
    if (call.blocks == 1) {
      multiply.template operator()<false>(0, nullptr);
      continue;
    }
    // Memory works all the time: the first block fetches the panel's second half, the last the first half of the next.
    const int64_t last = call.blocks - 1;
    const char* half = reinterpret_cast<const char*>(panel(p)) + call.depth * 32;
    const void* next = p + 1 < call.panels ? static_cast<const void*>(panel(p + 1)) : call.next;
    multiply.template operator()<true>(0, half);
    for (int64_t b = 1; b < last; ++b) multiply.template operator()<false>(b, nullptr);
    multiply.template operator()<true>(last, static_cast<const char*>(next));
  }
}

int64_t block_height(int64_t rows) { return even_height(rows, kMaxHeight); }

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
  uint32_t* out = static_cast<uint32_t*>(to);
  int64_t k = 0;
  for (; k + 16 <= cols; k += 16) {
    for (int64_t r = 0; r < rows; ++r) {
      alignas(32) uint32_t pairs[8];  // numbers too small to be normal become zero here as they do in the product
      _mm256_store_si256(reinterpret_cast<__m256i*>(pairs),
                         (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + r * x_stride + k)));
      for (int64_t i = 0; i < 8; ++i) out[(k / 2 + i) * height + r] = pairs[i];
    }
    for (int64_t r = rows; r < height; ++r)
      for (int64_t i = 0; i < 8; ++i) out[(k / 2 + i) * height + r] = 0;
  }
  for (; k < depth; k += 2) {
    for (int64_t r = 0; r < height; ++r) {
      const auto element = [&](int64_t at) -> uint32_t {
        return r < rows && at < cols ? f32_to_bf16(x[r * x_stride + at]) : 0u;
      };
      out[k / 2 * height + r] = element(k) | element(k + 1) << 16;
    }
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
