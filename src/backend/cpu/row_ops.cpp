// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/row_ops.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/row_ops.cpp"
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

// Calls f(i) for whole vectors of [0, n) and tail(i) for the elements left over.
template <class Vector, class Tail>
HWY_INLINE void over(int64_t n, const Vector& vector, const Tail& tail) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(F32()));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) vector(i);
  for (; i < n; ++i) tail(i);
}

void widen(float* out, const void* in, DType dtype, int64_t n) {
  with_stored(dtype, [&]<class S>(S) HWY_ATTR {
    const auto* from = static_cast<const typename S::Element*>(in);
    over(
        n, [&](int64_t i) HWY_ATTR { hn::StoreU(S::load(from + i), F32(), out + i); },
        [&](int64_t i) HWY_ATTR { out[i] = S::load_one(from + i); });
  });
}

void narrow(void* out, DType dtype, const float* in, int64_t n) {
  with_stored(dtype, [&]<class S>(S) HWY_ATTR {
    auto* to = static_cast<typename S::Element*>(out);
    over(
        n, [&](int64_t i) HWY_ATTR { S::store(hn::LoadU(F32(), in + i), to + i); },
        [&](int64_t i) HWY_ATTR { S::store_one(in[i], to + i); });
  });
}

void add(float* inout, const float* other, int64_t n) {
  over(
      n,
      [&](int64_t i)
          HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(F32(), inout + i), hn::LoadU(F32(), other + i)), F32(), inout + i); },
      [&](int64_t i) HWY_ATTR { inout[i] += other[i]; });
}

// Rounds a product before it is added to: without this some targets contract the two and others do not.
template <class V>
HWY_INLINE void round_now([[maybe_unused]] V& v) {
#if HWY_ARCH_X86
  asm("" : "+x"(v));
#endif
}

void finish(float* out, const float* sums, const float* scales, const float* bias, const float* residual, int64_t n) {
  over(
      n,
      [&](int64_t i) HWY_ATTR {
        VF v = hn::LoadU(F32(), sums + i);
        if (scales != nullptr) {
          v = hn::Mul(v, hn::LoadU(F32(), scales + i));
          round_now(v.raw);
        }
        if (bias != nullptr) v = hn::Add(v, hn::LoadU(F32(), bias + i));
        if (residual != nullptr) v = hn::Add(v, hn::LoadU(F32(), residual + i));
        hn::StoreU(v, F32(), out + i);
      },
      [&](int64_t i) HWY_ATTR {
        float v = sums[i];
        if (scales != nullptr) {
          v *= scales[i];
          round_now(v);
        }
        if (bias != nullptr) v += bias[i];
        if (residual != nullptr) v += residual[i];
        out[i] = v;
      });
}

HWY_INLINE float total(VF v) { return hn::GetLane(hn::SumOfLanes(F32(), v)); }

void rms_norm(float* out, const float* x, float* residual, const float* weight, int64_t n, float eps) {
  if (residual != nullptr) {
    add(residual, x, n);
    x = residual;
  }
  VF squares = hn::Zero(F32());
  float rest = 0;
  over(
      n,
      [&](int64_t i) HWY_ATTR {
        const VF v = hn::LoadU(F32(), x + i);
        squares = hn::MulAdd(v, v, squares);
      },
      [&](int64_t i) HWY_ATTR { rest += x[i] * x[i]; });
  const float scale = 1.0f / std::sqrt((total(squares) + rest) / static_cast<float>(n) + eps);
  const VF scales = hn::Set(F32(), scale);
  over(
      n,
      [&](int64_t i) HWY_ATTR {
        const VF v = hn::Mul(hn::LoadU(F32(), x + i), scales);
        hn::StoreU(hn::Mul(v, hn::LoadU(F32(), weight + i)), F32(), out + i);
      },
      [&](int64_t i) HWY_ATTR { out[i] = x[i] * scale * weight[i]; });
}

void layer_norm(float* out, const float* x, float* residual, const float* weight, const float* bias, int64_t n,
                float eps) {
  if (residual != nullptr) {
    add(residual, x, n);
    x = residual;
  }
  VF sums = hn::Zero(F32());
  float rest = 0;
  over(
      n, [&](int64_t i) HWY_ATTR { sums = hn::Add(sums, hn::LoadU(F32(), x + i)); },
      [&](int64_t i) HWY_ATTR { rest += x[i]; });
  const float mean = (total(sums) + rest) / static_cast<float>(n);
  const VF means = hn::Set(F32(), mean);
  VF squares = hn::Zero(F32());
  rest = 0;
  over(
      n,
      [&](int64_t i) HWY_ATTR {
        const VF v = hn::Sub(hn::LoadU(F32(), x + i), means);
        squares = hn::MulAdd(v, v, squares);
      },
      [&](int64_t i) HWY_ATTR { rest += (x[i] - mean) * (x[i] - mean); });
  const float scale = 1.0f / std::sqrt((total(squares) + rest) / static_cast<float>(n) + eps);
  const VF scales = hn::Set(F32(), scale);
  over(
      n,
      [&](int64_t i) HWY_ATTR {
        const VF v = hn::Mul(hn::Sub(hn::LoadU(F32(), x + i), means), scales);
        const VF b = bias != nullptr ? hn::LoadU(F32(), bias + i) : hn::Zero(F32());
        hn::StoreU(hn::MulAdd(v, hn::LoadU(F32(), weight + i), b), F32(), out + i);
      },
      [&](int64_t i) HWY_ATTR { out[i] = (x[i] - mean) * scale * weight[i] + (bias != nullptr ? bias[i] : 0.0f); });
}

struct Silu {
  static HWY_INLINE VF vector(VF x) {
    const VF one = hn::Set(F32(), 1.0f);
    const VF exponent = hn::Min(hn::Neg(x), hn::Set(F32(), 88.0f));  // Exp is defined up to 104
    return hn::Div(x, hn::Add(one, hn::Exp(F32(), exponent)));
  }
  static float one(float x) { return x / (1.0f + std::exp(-x)); }
};

// 0.5 x (1 + tanh(c (x + 0.044715 x^3))), c = sqrt(2 / pi)
struct GeluTanh {
  static HWY_INLINE VF vector(VF x) {
    const F32 d;
    const VF cube = hn::Mul(hn::Mul(x, x), x);
    const VF inner = hn::Mul(hn::Set(d, 0.7978845608f), hn::MulAdd(hn::Set(d, 0.044715f), cube, x));
    return hn::Mul(hn::Mul(hn::Set(d, 0.5f), x), hn::Add(hn::Set(d, 1.0f), hn::Tanh(d, inner)));
  }
  static float one(float x) { return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x))); }
};

// 0.5 x (1 + erf(x / sqrt 2)); lane by lane, as erf has no vector form here.
struct GeluErf {
  static HWY_INLINE VF vector(VF x) {
    HWY_ALIGN float lanes[hn::MaxLanes(F32())];
    hn::Store(x, F32(), lanes);
    for (size_t i = 0; i < hn::Lanes(F32()); ++i) lanes[i] = one(lanes[i]);
    return hn::Load(F32(), lanes);
  }
  static float one(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f)); }
};

struct Relu {
  static HWY_INLINE VF vector(VF x) { return hn::Max(x, hn::Zero(F32())); }
  static float one(float x) { return x > 0 ? x : 0; }
};

template <class Function>
HWY_INLINE void with_activation(Activation activation, const Function& f) {
  switch (activation) {
    case Activation::kSilu:
      return f(Silu());
    case Activation::kGeluErf:
      return f(GeluErf());
    case Activation::kGeluTanh:
      return f(GeluTanh());
    case Activation::kRelu:
      return f(Relu());
  }
}

void activate(float* inout, int64_t n, Activation activation) {
  with_activation(activation, [&]<class A>(A) HWY_ATTR {
    over(
        n, [&](int64_t i) HWY_ATTR { hn::StoreU(A::vector(hn::LoadU(F32(), inout + i)), F32(), inout + i); },
        [&](int64_t i) HWY_ATTR { inout[i] = A::one(inout[i]); });
  });
}

void gate(float* out, const float* gate, const float* up, int64_t n, Activation activation) {
  with_activation(activation, [&]<class A>(A) HWY_ATTR {
    over(
        n,
        [&](int64_t i) HWY_ATTR {
          hn::StoreU(hn::Mul(A::vector(hn::LoadU(F32(), gate + i)), hn::LoadU(F32(), up + i)), F32(), out + i);
        },
        [&](int64_t i) HWY_ATTR { out[i] = A::one(gate[i]) * up[i]; });
  });
}

void rotate(float* head, const float* cosine, const float* sine, int64_t half) {
  over(
      half,
      [&](int64_t i) HWY_ATTR {
        const VF a = hn::LoadU(F32(), head + i), b = hn::LoadU(F32(), head + half + i);
        const VF c = hn::LoadU(F32(), cosine + i), s = hn::LoadU(F32(), sine + i);
        hn::StoreU(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), F32(), head + i);
        hn::StoreU(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), F32(), head + half + i);
      },
      [&](int64_t i) HWY_ATTR {
        const float a = head[i], b = head[half + i];
        head[i] = a * cosine[i] - b * sine[i];
        head[half + i] = b * cosine[i] + a * sine[i];
      });
}

void scale(float* inout, int64_t n, float factor) {
  const VF factors = hn::Set(F32(), factor);
  over(
      n, [&](int64_t i) HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(F32(), inout + i), factors), F32(), inout + i); },
      [&](int64_t i) HWY_ATTR { inout[i] *= factor; });
}

void add_scaled(float* inout, const float* x, int64_t n, float factor) {
  const VF factors = hn::Set(F32(), factor);
  over(
      n,
      [&](int64_t i) HWY_ATTR {
        hn::StoreU(hn::MulAdd(hn::LoadU(F32(), x + i), factors, hn::LoadU(F32(), inout + i)), F32(), inout + i);
      },
      [&](int64_t i) HWY_ATTR { inout[i] = std::fma(x[i], factor, inout[i]); });
}

void soft_cap(float* inout, int64_t n, float cap) {
  const VF caps = hn::Set(F32(), cap), inverse = hn::Set(F32(), 1.0f / cap);
  over(
      n,
      [&](int64_t i) HWY_ATTR {
        const VF inner = hn::Mul(hn::LoadU(F32(), inout + i), inverse);
        hn::StoreU(hn::Mul(hn::Tanh(F32(), inner), caps), F32(), inout + i);
      },
      [&](int64_t i) HWY_ATTR { inout[i] = std::tanh(inout[i] / cap) * cap; });
}

uint64_t read(const void* data, size_t bytes) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d);
  const auto* from = static_cast<const uint64_t*>(data);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (size_t i = 0; i + 256 <= bytes; i += 256, from += 32) {
    for (size_t j = 0; j < 32; j += 4 * lanes) {
      a = hn::Add(a, hn::LoadU(d, from + j));
      b = hn::Add(b, hn::LoadU(d, from + j + lanes));
      c = hn::Add(c, hn::LoadU(d, from + j + 2 * lanes));
      e = hn::Add(e, hn::LoadU(d, from + j + 3 * lanes));
    }
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

const RowOps* get_row_ops() {
  static constexpr RowOps kOps{widen, narrow, add,   finish,     rms_norm, layer_norm, activate,
                               gate,  rotate, scale, add_scaled, soft_cap, read};
  return &kOps;
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {
HWY_EXPORT(get_row_ops);
const RowOps& row_ops(int64_t vector_targets) { return *SLUICE_DISPATCH(get_row_ops, vector_targets)(); }
}  // namespace sluice
#endif
