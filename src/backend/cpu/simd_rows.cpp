// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/simd_rows.cpp"
#define HWY_DISABLED_TARGETS (HWY_SSE4 | HWY_AVX3_DL)
// First, because it includes this file once per target.
#include <hwy/foreach_target.h>

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cmath>
#include <cstring>

#include "base/error.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::simd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using Vec = hn::Vec<F32>;
constexpr F32 kF;

// Whole vectors first, then the rest one by one with the same scalar function.
template <class Vector, class Scalar>
HWY_INLINE void map(int64_t n, const Vector& vector, const Scalar& scalar) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(kF));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) vector(i);
  for (; i < n; ++i) scalar(i);
}

void Add(float* inout, const float* other, int64_t n) {
  map(
      n, [&](int64_t i) { hn::StoreU(hn::Add(hn::LoadU(kF, inout + i), hn::LoadU(kF, other + i)), kF, inout + i); },
      [&](int64_t i) { inout[i] += other[i]; });
}

// Sum of f(i) over vectors in order, lanes last, then the rest.
template <class Vector, class Scalar>
HWY_INLINE float reduce(int64_t n, const Vector& vector, const Scalar& scalar) {
  Vec sums = hn::Zero(kF);
  float rest = 0;
  map(
      n, [&](int64_t i) { sums = hn::Add(sums, vector(i)); }, [&](int64_t i) { rest += scalar(i); });
  return hn::GetLane(hn::SumOfLanes(kF, sums)) + rest;
}

void RmsNorm(float* out, const float* x, float* residual, const float* weight, int64_t n, float eps) {
  if (residual != nullptr) {
    Add(residual, x, n);
    x = residual;
  }
  const float squares = reduce(
      n,
      [&](int64_t i) {
        const Vec v = hn::LoadU(kF, x + i);
        return hn::Mul(v, v);
      },
      [&](int64_t i) { return x[i] * x[i]; });
  const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
  const Vec factors = hn::Set(kF, factor);
  map(
      n,
      [&](int64_t i) {
        hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(kF, x + i), factors), hn::LoadU(kF, weight + i)), kF, out + i);
      },
      [&](int64_t i) { out[i] = x[i] * factor * weight[i]; });
}

void LayerNorm(float* out, const float* x, float* residual, const float* weight, const float* bias, int64_t n,
               float eps) {
  if (residual != nullptr) {
    Add(residual, x, n);
    x = residual;
  }
  const float mean = reduce(
                         n, [&](int64_t i) { return hn::LoadU(kF, x + i); }, [&](int64_t i) { return x[i]; }) /
                     static_cast<float>(n);
  const Vec means = hn::Set(kF, mean);
  const float squares = reduce(
      n,
      [&](int64_t i) {
        const Vec v = hn::Sub(hn::LoadU(kF, x + i), means);
        return hn::Mul(v, v);
      },
      [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
  const Vec factors = hn::Set(kF, factor);
  map(
      n,
      [&](int64_t i) {
        Vec v = hn::Mul(hn::Mul(hn::Sub(hn::LoadU(kF, x + i), means), factors), hn::LoadU(kF, weight + i));
        if (bias != nullptr) v = hn::Add(v, hn::LoadU(kF, bias + i));
        hn::StoreU(v, kF, out + i);
      },
      [&](int64_t i) { out[i] = (x[i] - mean) * factor * weight[i] + (bias != nullptr ? bias[i] : 0.0f); });
}

HWY_INLINE Vec silu_of(Vec v) { return hn::Div(v, hn::Add(hn::Set(kF, 1.0f), hn::Exp(kF, hn::Neg(v)))); }

void Silu(float* inout, int64_t n) {
  map(
      n, [&](int64_t i) { hn::StoreU(silu_of(hn::LoadU(kF, inout + i)), kF, inout + i); },
      [&](int64_t i) { inout[i] = inout[i] / (1.0f + std::exp(-inout[i])); });
}

void SiluGate(float* out, const float* gate, const float* up, int64_t n) {
  map(
      n, [&](int64_t i) { hn::StoreU(hn::Mul(silu_of(hn::LoadU(kF, gate + i)), hn::LoadU(kF, up + i)), kF, out + i); },
      [&](int64_t i) { out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i]; });
}

void Rotate(float* head, const float* cos, const float* sin, int64_t half) {
  map(
      half,
      [&](int64_t i) {
        const Vec a = hn::LoadU(kF, head + i), b = hn::LoadU(kF, head + half + i), c = hn::LoadU(kF, cos + i),
                  s = hn::LoadU(kF, sin + i);
        hn::StoreU(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), kF, head + i);
        hn::StoreU(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), kF, head + half + i);
      },
      [&](int64_t i) {
        const float a = head[i], b = head[half + i];
        head[i] = a * cos[i] - b * sin[i];
        head[half + i] = b * cos[i] + a * sin[i];
      });
}

void Scale(float* inout, float factor, int64_t n) {
  const Vec factors = hn::Set(kF, factor);
  map(
      n, [&](int64_t i) { hn::StoreU(hn::Mul(hn::LoadU(kF, inout + i), factors), kF, inout + i); },
      [&](int64_t i) { inout[i] *= factor; });
}

void Narrow(void* out, const float* in, DType dtype, int64_t n) {
  if (dtype == DType::kF32) {
    std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
  } else if (dtype == DType::kBF16) {
    auto* to = static_cast<uint16_t*>(out);
    for (int64_t i = 0; i < n; ++i) to[i] = f32_to_bf16(in[i]);
  } else {
    auto* to = static_cast<hwy::float16_t*>(out);
    const hn::Rebind<hwy::float16_t, F32> halves;
    map(
        n, [&](int64_t i) { hn::StoreU(hn::DemoteTo(halves, hn::LoadU(kF, in + i)), halves, to + i); },
        [&](int64_t i) { reinterpret_cast<uint16_t*>(to)[i] = f32_to_f16(in[i]); });
  }
}

void Widen(float* out, const void* in, DType dtype, int64_t n) {
  if (dtype == DType::kF32) {
    std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
  } else if (dtype == DType::kBF16) {
    const auto* from = static_cast<const uint16_t*>(in);
    const hn::Rebind<uint16_t, F32> halves;
    const hn::Rebind<uint32_t, F32> words;
    map(
        n,
        [&](int64_t i) {
          hn::StoreU(hn::BitCast(kF, hn::ShiftLeft<16>(hn::PromoteTo(words, hn::LoadU(halves, from + i)))), kF,
                     out + i);
        },
        [&](int64_t i) { out[i] = bf16_to_f32(from[i]); });
  } else {
    const auto* from = static_cast<const hwy::float16_t*>(in);
    const hn::Rebind<hwy::float16_t, F32> halves;
    map(
        n, [&](int64_t i) { hn::StoreU(hn::PromoteTo(kF, hn::LoadU(halves, from + i)), kF, out + i); },
        [&](int64_t i) { out[i] = f16_to_f32(reinterpret_cast<const uint16_t*>(from)[i]); });
  }
}

void Attend(const AttentionBlock& b) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(kF));
  constexpr float kNone = -3.0e38f;
  // Scores of all keys of the block: one chain over head_dim per key.
  for (int64_t j = 0; j < b.block; j += lanes) {
    Vec score = hn::Zero(kF);
    for (int64_t d = 0; d < b.head_dim; ++d)
      score = hn::MulAdd(hn::Set(kF, b.query[d]), hn::LoadU(kF, b.keys + d * b.block + j), score);
    if (b.bias != nullptr) score = hn::Add(score, hn::LoadU(kF, b.bias + j));
    hn::StoreU(score, kF, b.scores + j);
  }
  for (int64_t j = 0; j < b.first; ++j) b.scores[j] = kNone;
  for (int64_t j = b.last; j < b.block; ++j) b.scores[j] = kNone;
  Vec best = hn::Set(kF, *b.maximum);
  for (int64_t j = 0; j < b.block; j += lanes) best = hn::Max(best, hn::LoadU(kF, b.scores + j));
  const float maximum = hn::GetLane(hn::MaxOfLanes(kF, best));
  const float keep = std::exp(*b.maximum - maximum);
  *b.maximum = maximum;
  const Vec maxima = hn::Set(kF, maximum);
  Vec sums = hn::Zero(kF);
  for (int64_t j = 0; j < b.block; j += lanes) {
    const Vec p = hn::Exp(kF, hn::Sub(hn::LoadU(kF, b.scores + j), maxima));
    sums = hn::Add(sums, p);
    hn::StoreU(p, kF, b.scores + j);
  }
  *b.sum = *b.sum * keep + hn::GetLane(hn::SumOfLanes(kF, sums));
  const Vec keeps = hn::Set(kF, keep);
  int64_t d = 0;
  for (; d + lanes <= b.head_dim; d += lanes) {
    Vec out = hn::Mul(hn::LoadU(kF, b.output + d), keeps);
    for (int64_t j = b.first; j < b.last; ++j)
      out = hn::MulAdd(hn::Set(kF, b.scores[j]), hn::LoadU(kF, b.values + j * b.head_dim + d), out);
    hn::StoreU(out, kF, b.output + d);
  }
  for (; d < b.head_dim; ++d) {
    float out = b.output[d] * keep;
    for (int64_t j = b.first; j < b.last; ++j) out = std::fma(b.scores[j], b.values[j * b.head_dim + d], out);
    b.output[d] = out;
  }
}

uint64_t ReadAll(const void* data, int64_t bytes) {
  const hn::ScalableTag<uint64_t> words;
  const auto lanes = static_cast<int64_t>(hn::Lanes(words));
  const auto* from = static_cast<const uint64_t*>(data);
  auto a = hn::Zero(words), b = a, c = a, d = a;
  const int64_t n = bytes / 8;
  for (int64_t i = 0; i + 4 * lanes <= n; i += 4 * lanes) {
    a = hn::Add(a, hn::LoadU(words, from + i));
    b = hn::Add(b, hn::LoadU(words, from + i + lanes));
    c = hn::Add(c, hn::LoadU(words, from + i + 2 * lanes));
    d = hn::Add(d, hn::LoadU(words, from + i + 3 * lanes));
  }
  return hn::GetLane(hn::SumOfLanes(words, hn::Add(hn::Add(a, b), hn::Add(c, d))));
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice::simd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::simd {
HWY_EXPORT(Add);
HWY_EXPORT(RmsNorm);
HWY_EXPORT(LayerNorm);
HWY_EXPORT(Silu);
HWY_EXPORT(SiluGate);
HWY_EXPORT(Rotate);
HWY_EXPORT(Scale);
HWY_EXPORT(Narrow);
HWY_EXPORT(Widen);
HWY_EXPORT(Attend);
HWY_EXPORT(ReadAll);

void add(float* inout, const float* other, int64_t n) { HWY_DYNAMIC_DISPATCH(Add)(inout, other, n); }
void rms_norm(float* out, const float* x, float* residual, const float* weight, int64_t n, float eps) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(out, x, residual, weight, n, eps);
}
void layer_norm(float* out, const float* x, float* residual, const float* weight, const float* bias, int64_t n,
                float eps) {
  HWY_DYNAMIC_DISPATCH(LayerNorm)(out, x, residual, weight, bias, n, eps);
}
void silu(float* inout, int64_t n) { HWY_DYNAMIC_DISPATCH(Silu)(inout, n); }
void silu_gate(float* out, const float* gate, const float* up, int64_t n) {
  HWY_DYNAMIC_DISPATCH(SiluGate)(out, gate, up, n);
}
void rotate(float* head, const float* cos, const float* sin, int64_t half) {
  HWY_DYNAMIC_DISPATCH(Rotate)(head, cos, sin, half);
}
void scale(float* inout, float factor, int64_t n) { HWY_DYNAMIC_DISPATCH(Scale)(inout, factor, n); }
void narrow(void* out, const float* in, DType dtype, int64_t n) { HWY_DYNAMIC_DISPATCH(Narrow)(out, in, dtype, n); }
void widen(float* out, const void* in, DType dtype, int64_t n) { HWY_DYNAMIC_DISPATCH(Widen)(out, in, dtype, n); }
void attend(const AttentionBlock& block) { HWY_DYNAMIC_DISPATCH(Attend)(block); }
uint64_t read_all(const void* data, int64_t bytes) { return HWY_DYNAMIC_DISPATCH(ReadAll)(data, bytes); }
}  // namespace sluice::simd
#endif
