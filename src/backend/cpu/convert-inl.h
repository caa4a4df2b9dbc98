// SPDX-License-Identifier: Apache-2.0
// Conversions between f32 lanes and stored elements, for files that include hwy/foreach_target.h. Included once per
// target.
#if defined(SLUICE_CONVERT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_CONVERT_INL_H
#undef SLUICE_CONVERT_INL_H
#else
#define SLUICE_CONVERT_INL_H
#endif

#include <hwy/highway.h>

#include "tensor/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace sluice {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using U32 = hn::RebindToUnsigned<F32>;
using U16 = hn::Rebind<uint16_t, F32>;  // as many lanes as F32
using F16 = hn::Rebind<hwy::float16_t, F32>;
using VF = hn::Vec<F32>;

#undef SLUICE_VECTOR_F16
// Targets without F16C convert one by one; the results are the same.
#if HWY_TARGET <= HWY_AVX2 || HWY_TARGET == HWY_NEON
#define SLUICE_VECTOR_F16 1
#else
#define SLUICE_VECTOR_F16 0
#endif

struct StoredF32 {
  using Element = float;
  static HWY_INLINE VF load(const float* from) { return hn::LoadU(F32(), from); }
  static HWY_INLINE void store(VF v, float* to) { hn::StoreU(v, F32(), to); }
  static HWY_INLINE float load_one(const float* from) { return *from; }
  static HWY_INLINE void store_one(float v, float* to) { *to = v; }
};

struct StoredBF16 {
  using Element = uint16_t;
  static HWY_INLINE VF load(const uint16_t* from) {
    const auto wide = hn::PromoteTo(U32(), hn::LoadU(U16(), from));
    return hn::BitCast(F32(), hn::ShiftLeft<16>(wide));
  }
  // Round to nearest even; NaN stays NaN.
  static HWY_INLINE hn::Vec<U32> round_bits(VF v) {
    const U32 du;
    const auto bits = hn::BitCast(du, v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff))));
    const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40));
    return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
  }
  static HWY_INLINE void store(VF v, uint16_t* to) {
    hn::StoreU(hn::DemoteTo(U16(), hn::BitCast(hn::RebindToSigned<U32>(), round_bits(v))), U16(), to);
  }
  static HWY_INLINE VF round(VF v) { return hn::BitCast(F32(), hn::ShiftLeft<16>(round_bits(v))); }
  static HWY_INLINE float load_one(const uint16_t* from) { return bf16_to_f32(*from); }
  static HWY_INLINE void store_one(float v, uint16_t* to) { *to = f32_to_bf16(v); }
};

struct StoredF16 {
  using Element = uint16_t;
  static HWY_INLINE VF load(const uint16_t* from) {
#if SLUICE_VECTOR_F16
    return hn::PromoteTo(F32(), hn::LoadU(F16(), reinterpret_cast<const hwy::float16_t*>(from)));
#else
    HWY_ALIGN float lanes[hn::MaxLanes(F32())];
    for (size_t i = 0; i < hn::Lanes(F32()); ++i) lanes[i] = f16_to_f32(from[i]);
    return hn::Load(F32(), lanes);
#endif
  }
  static HWY_INLINE void store(VF v, uint16_t* to) {
#if SLUICE_VECTOR_F16
    hn::StoreU(hn::DemoteTo(F16(), v), F16(), reinterpret_cast<hwy::float16_t*>(to));
#else
    HWY_ALIGN float lanes[hn::MaxLanes(F32())];
    hn::Store(v, F32(), lanes);
    for (size_t i = 0; i < hn::Lanes(F32()); ++i) to[i] = f32_to_f16(lanes[i]);
#endif
  }
  static HWY_INLINE float load_one(const uint16_t* from) { return f16_to_f32(*from); }
  static HWY_INLINE void store_one(float v, uint16_t* to) { *to = f32_to_f16(v); }
};

// Calls f(Stored{}) with the accessor of a floating dtype.
template <class Function>
HWY_INLINE void with_stored(DType dtype, const Function& f) {
  if (dtype == DType::kF32) return f(StoredF32());
  if (dtype == DType::kBF16) return f(StoredBF16());
  f(StoredF16());
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();
#endif
