// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/simd_product.cpp"
#define HWY_DISABLED_TARGETS (HWY_SSE4 | HWY_AVX3_DL)
// First, because it includes this file once per target.
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include "base/error.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::simd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using Vec = hn::Vec<F32>;
constexpr F32 kF;
#if HWY_TARGET <= HWY_AVX3
constexpr int kTileRows = 12;  // 24 sums, two weights and one input in 32 registers
#else
constexpr int kTileRows = 6;
#endif

// Weights of features [part, part + L) and [16 + part, 16 + part + L) of one input.
struct FromBF16 {
  static constexpr size_t kBytes = 2;
  static HWY_INLINE void get(const void* place, size_t part, Vec& low, Vec& high) {
    const hn::Rebind<uint32_t, F32> words;
    const auto pairs = hn::LoadU(words, static_cast<const uint32_t*>(place) + part);
    low = hn::BitCast(kF, hn::ShiftLeft<16>(pairs));
    high = hn::BitCast(kF, hn::And(pairs, hn::Set(words, 0xffff0000u)));
  }
};
struct FromF16 {
  static constexpr size_t kBytes = 2;
  static HWY_INLINE void get(const void* place, size_t part, Vec& low, Vec& high) {
    const hn::Rebind<hwy::float16_t, F32> halves;
    const auto* weights = static_cast<const hwy::float16_t*>(place);
    low = hn::PromoteTo(kF, hn::LoadU(halves, weights + part));
    high = hn::PromoteTo(kF, hn::LoadU(halves, weights + 16 + part));
  }
};
struct FromF32 {
  static constexpr size_t kBytes = 4;
  static HWY_INLINE void get(const void* place, size_t part, Vec& low, Vec& high) {
    const auto* weights = static_cast<const float*>(place);
    low = hn::LoadU(kF, weights + part);
    high = hn::LoadU(kF, weights + 16 + part);
  }
};

template <class Weights, int kRows>
HWY_INLINE void tile_of(const PanelTile& t) {
  const size_t lanes = hn::Lanes(kF);
  for (size_t part = 0; part < 16; part += lanes) {
    Vec low[kRows], high[kRows];
    for (int r = 0; r < kRows; ++r) {
      float* out = t.out + r * t.out_stride + part;
      low[r] = t.accumulate ? hn::LoadU(kF, out) : hn::Zero(kF);
      high[r] = t.accumulate ? hn::LoadU(kF, out + 16) : hn::Zero(kF);
    }
    const auto* panel = static_cast<const uint8_t*>(t.panel);
    const float* x = t.x;
    for (int64_t k = 0; k < t.inputs; ++k) {
      Vec w_low, w_high;
      Weights::get(panel, part, w_low, w_high);
      for (int r = 0; r < kRows; ++r) {
        const Vec value = hn::Set(kF, x[r]);
        low[r] = hn::MulAdd(w_low, value, low[r]);
        high[r] = hn::MulAdd(w_high, value, high[r]);
      }
      panel += kPanel * Weights::kBytes;
      x += kRows;
    }
    for (int r = 0; r < kRows; ++r) {
      float* out = t.out + r * t.out_stride + part;
      hn::StoreU(low[r], kF, out);
      hn::StoreU(high[r], kF, out + 16);
    }
  }
}

template <class Weights>
void tile_rows_of(const PanelTile& t) {
  switch (t.rows) {
    case 1:
      return tile_of<Weights, 1>(t);
    case 2:
      return tile_of<Weights, 2>(t);
    case 3:
      return tile_of<Weights, 3>(t);
    case 4:
      return tile_of<Weights, 4>(t);
    case 5:
      return tile_of<Weights, 5>(t);
    case 6:
      return tile_of<Weights, 6>(t);
#if HWY_TARGET <= HWY_AVX3
    case 7:
      return tile_of<Weights, 7>(t);
    case 8:
      return tile_of<Weights, 8>(t);
    case 9:
      return tile_of<Weights, 9>(t);
    case 10:
      return tile_of<Weights, 10>(t);
    case 11:
      return tile_of<Weights, 11>(t);
    case 12:
      return tile_of<Weights, 12>(t);
#endif
    default:
      fatal("a product tile has too many rows");
  }
}

void PanelTileOf(const PanelTile& t) {
  switch (t.dtype) {
    case DType::kBF16:
      return tile_rows_of<FromBF16>(t);
    case DType::kF16:
      return tile_rows_of<FromF16>(t);
    case DType::kF32:
      return tile_rows_of<FromF32>(t);
    default:
      fatal("a panel holds bf16, f16 or f32");
  }
}
int TileRows() { return kTileRows; }
const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace sluice::simd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::simd {
HWY_EXPORT(PanelTileOf);
HWY_EXPORT(TileRows);
HWY_EXPORT(TargetName);

void cap_to_avx2() { hwy::DisableTargets(HWY_AVX3 | HWY_AVX3_DL); }
void panel_tile(const PanelTile& tile) { HWY_DYNAMIC_DISPATCH(PanelTileOf)(tile); }
int tile_rows() { return HWY_DYNAMIC_DISPATCH(TileRows)(); }
std::string target_name() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }
}  // namespace sluice::simd
#endif
