// SPDX-License-Identifier: Apache-2.0
// The product on any vector unit. A kernel holds height x (two or four) accumulators, so that one load of weights
// serves several rows and one broadcast several columns; the two are balanced against the number of registers.
#include "backend/cpu/product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/product_vector.cpp"
#define HWY_DISABLED_TARGETS (HWY_SSE4 | HWY_AVX3_DL)
// First, because it includes this file once per target.
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include "backend/cpu/convert-inl.h"
#include "backend/cpu/dispatch.h"

HWY_BEFORE_NAMESPACE();
namespace sluice {
namespace HWY_NAMESPACE {

constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
constexpr int64_t kMaxHeight = kLanes >= 16 ? 12 : kLanes == 8 ? 6 : 4;
// Vectors side by side: a full block of rows leaves room for two; few rows take more, to keep enough sums in flight.
constexpr int kWide = static_cast<int>(kPanel) / kLanes < 4 ? static_cast<int>(kPanel) / kLanes : 4;
constexpr int kNarrow = 2;

// Weights of N vectors of columns at one k, widened. Two successive k share a pair in bf16.
struct WideF32 {
  using Element = float;
  static constexpr int64_t kStep = 1;
  template <int N>
  static HWY_INLINE void load(const float* w, VF (*out)[1]) {
    for (int v = 0; v < N; ++v) out[v][0] = hn::Load(F32(), w + v * kLanes);
  }
};
struct WideF16 {
  using Element = uint16_t;
  static constexpr int64_t kStep = 1;
  template <int N>
  static HWY_INLINE void load(const uint16_t* w, VF (*out)[1]) {
    for (int v = 0; v < N; ++v) out[v][0] = StoredF16::load(w + v * kLanes);
  }
};
struct WideBF16 {
  using Element = uint16_t;
  static constexpr int64_t kStep = 2;
  template <int N>
  static HWY_INLINE void load(const uint16_t* w, VF (*out)[2]) {
    const U32 du;
    for (int v = 0; v < N; ++v) {
      const auto pairs = hn::Load(du, reinterpret_cast<const uint32_t*>(w) + v * kLanes);
      out[v][0] = hn::BitCast(F32(), hn::ShiftLeft<16>(pairs));
      out[v][1] = hn::BitCast(F32(), hn::And(pairs, hn::Set(du, 0xffff0000u)));
    }
  }
};

// c [H][N vectors] over one block of rows; x [depth][H], w at the first of the columns. kFetch: the weights
// are called in ahead.
template <class Wide, int H, int N, bool kFetch>
HWY_INLINE void block_product(float* HWY_RESTRICT c, int64_t c_stride, const float* HWY_RESTRICT x,
                              const typename Wide::Element* HWY_RESTRICT w, int64_t depth, bool continued) {
  const F32 d;
  VF sum[H][N];
  for (int r = 0; r < H; ++r) {
    for (int v = 0; v < N; ++v) sum[r][v] = continued ? hn::LoadU(d, c + r * c_stride + v * kLanes) : hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; k += Wide::kStep) {
    if (kFetch) {
      for (size_t i = 0; i < kPanel * Wide::kStep * sizeof(*w); i += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(w) + kAhead + i, 0, 2);
    }
    VF wide[N][Wide::kStep];
    Wide::template load<N>(w, wide);
    for (int s = 0; s < Wide::kStep; ++s) {
      for (int r = 0; r < H; ++r) {
        const VF row = hn::Set(d, x[r]);
        for (int v = 0; v < N; ++v) sum[r][v] = hn::MulAdd(row, wide[v][s], sum[r][v]);
      }
      x += H;
    }
    w += kPanel * Wide::kStep;
  }
  for (int r = 0; r < H; ++r) {
    for (int v = 0; v < N; ++v) hn::StoreU(sum[r][v], d, c + r * c_stride + v * kLanes);
  }
}

template <class Wide, int H>
void multiply_blocks(const ProductCall& call) {
  constexpr int kVectors = (H <= 3) ? kWide : kNarrow;
  constexpr int64_t kColumns = kVectors * kLanes;
  for (int64_t p = 0; p < call.panels; ++p) {
    const auto* panel = reinterpret_cast<const typename Wide::Element*>(static_cast<const char*>(call.w) +
                                                                        static_cast<size_t>(p) * call.w_panel_bytes);
    for (int64_t b = 0; b < call.blocks; ++b) {
      const auto* x = reinterpret_cast<const float*>(static_cast<const char*>(call.x) +
                                                     static_cast<size_t>(b) * call.x_block_bytes);
      float* c = call.c + b * H * call.c_stride + p * kPanel;
      for (int64_t column = 0; column < kPanel; column += kColumns) {
        const auto* w = panel + column * Wide::kStep;
        if (b == 0 && column == 0 && call.call_ahead)
          block_product<Wide, H, kVectors, true>(c, call.c_stride, x, w, call.depth, call.continued);
        else
          block_product<Wide, H, kVectors, false>(c + column, call.c_stride, x, w, call.depth, call.continued);
      }
    }
  }
}

int64_t block_height(int64_t rows) { return even_height(rows, kMaxHeight); }

template <class Wide>
void multiply(const ProductCall& call) {
  switch (call.height) {
    case 1:
      return multiply_blocks<Wide, 1>(call);
    case 2:
      return multiply_blocks<Wide, 2>(call);
    case 3:
      return multiply_blocks<Wide, 3>(call);
    case 4:
      return multiply_blocks<Wide, 4>(call);
#if HWY_TARGET <= HWY_AVX2
    case 6:
      return multiply_blocks<Wide, 6>(call);
#endif
#if HWY_TARGET <= HWY_AVX3
    case 8:
      return multiply_blocks<Wide, 8>(call);
    case 10:
      return multiply_blocks<Wide, 10>(call);
    case 12:
      return multiply_blocks<Wide, 12>(call);
#endif
  }
}

// [depth][height] f32, rounded to bf16 where Rounded.
template <bool Rounded>
void pack_rows(void* to, const float* x, int64_t x_stride, int64_t rows, int64_t height, int64_t cols, int64_t depth) {
  float* out = static_cast<float*>(to);
  for (int64_t r = 0; r < height; ++r) {
    const float* row = x + r * x_stride;
    const int64_t valid = r < rows ? cols : 0;
    for (int64_t k = 0; k < valid; ++k) out[k * height + r] = Rounded ? bf16_to_f32(f32_to_bf16(row[k])) : row[k];
    for (int64_t k = valid; k < depth; ++k) out[k * height + r] = 0;
  }
}

const ProductKernel* get_vector_product(Scheme scheme) {
  static constexpr ProductKernel kF32{"f32", kMaxHeight, 4, block_height, pack_rows<false>, multiply<WideF32>};
  static constexpr ProductKernel kF16{"f16", kMaxHeight, 4, block_height, pack_rows<false>, multiply<WideF16>};
  static constexpr ProductKernel kBF16{"bf16", kMaxHeight, 4, block_height, pack_rows<true>, multiply<WideBF16>};
  return scheme == Scheme::kF32 ? &kF32 : scheme == Scheme::kF16 ? &kF16 : &kBF16;
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {
HWY_EXPORT(get_vector_product);
const ProductKernel& vector_product(Scheme scheme, int64_t vector_targets) {
  return *SLUICE_DISPATCH(get_vector_product, vector_targets)(scheme);
}
}  // namespace sluice
#endif
