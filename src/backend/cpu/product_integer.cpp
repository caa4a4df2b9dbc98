// SPDX-License-Identifier: Apache-2.0
// The products of quantised weights. Products of 8-bit activations and unsigned weights are summed in whole numbers: by
// the four-way dot product where the processor has it (AVX512-VNNI), else in pairs of 16 bits. 4-bit weights are small
// enough for sums of 16 bits over a few steps.
#include "backend/cpu/product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/product_integer.cpp"
#define HWY_DISABLED_TARGETS (HWY_SSE4 | HWY_AVX3_DL)
// First, because it includes this file once per target.
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "backend/cpu/convert-inl.h"
#include "backend/cpu/dispatch.h"

HWY_BEFORE_NAMESPACE();
namespace sluice {
namespace HWY_NAMESPACE {

using I32 = hn::RebindToSigned<F32>;
using I16 = hn::Repartition<int16_t, I32>;
using U8 = hn::Repartition<uint8_t, I32>;
using VI = hn::Vec<I32>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
constexpr int64_t kMaxHeight = kLanes >= 16 ? 12 : kLanes == 8 ? 6 : 4;
constexpr int kWide = static_cast<int>(kPanel) / kLanes < 4 ? static_cast<int>(kPanel) / kLanes : 4;
constexpr int kNarrow = 2;

// Adds neighbouring products of 16-bit numbers.
HWY_INLINE VI pairs_product(VI a, VI b) {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  return VI{_mm512_madd_epi16(a.raw, b.raw)};
#elif HWY_TARGET == HWY_AVX2
  return VI{_mm256_madd_epi16(a.raw, b.raw)};
#elif HWY_TARGET <= HWY_SSSE3 && HWY_ARCH_X86
  return VI{_mm_madd_epi16(a.raw, b.raw)};
#else
  const auto low = [](VI v) { return hn::ShiftRight<16>(hn::ShiftLeft<16>(v)); };
  const auto high = [](VI v) { return hn::ShiftRight<16>(v); };
  return hn::Add(hn::Mul(low(a), low(b)), hn::Mul(high(a), high(b)));
#endif
}

// Adds to each 32-bit sum the products of the four unsigned bytes of w and the four signed bytes of x. In assembly,
// because the target that includes this instruction asks for more than some processors that have it.
#if HWY_TARGET == HWY_AVX3 && HWY_ARCH_X86
HWY_INLINE VI dot4(VI sum, VI w, VI x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(w.raw), "v"(x.raw));
  return sum;
}
#else
HWY_INLINE VI dot4(VI sum, VI, VI) { return sum; }  // not used
#endif

#undef SLUICE_BYTE_PAIRS
// Neighbouring products of unsigned w and signed x as 16-bit sums; the caller knows that they fit.
#if HWY_TARGET <= HWY_SSSE3 && HWY_ARCH_X86
#define SLUICE_BYTE_PAIRS 1
HWY_INLINE VI byte_pairs(VI w, VI x) {
#if HWY_TARGET <= HWY_AVX3
  return VI{_mm512_maddubs_epi16(w.raw, x.raw)};
#elif HWY_TARGET == HWY_AVX2
  return VI{_mm256_maddubs_epi16(w.raw, x.raw)};
#else
  return VI{_mm_maddubs_epi16(w.raw, x.raw)};
#endif
}
#else
#define SLUICE_BYTE_PAIRS 0
HWY_INLINE VI byte_pairs(VI w, VI) { return w; }    // not used
#endif

HWY_INLINE VI add16(VI a, VI b) {
  const I16 d;
  return hn::BitCast(I32(), hn::Add(hn::BitCast(d, a), hn::BitCast(d, b)));
}
// Bytes 0 and 2, and bytes 1 and 3, of each 32-bit lane as numbers of 16 bits.
HWY_INLINE VI even_bytes(VI v) { return hn::And(v, hn::Set(I32(), 0x00ff00ff)); }
HWY_INLINE VI odd_bytes(VI v) {
  const hn::RebindToUnsigned<I16> d;
  return hn::BitCast(I32(), hn::ShiftRight<8>(hn::BitCast(d, v)));
}
HWY_INLINE VI four(const void* x) {
  int32_t value;
  std::memcpy(&value, x, sizeof value);
  return hn::Set(I32(), value);
}
HWY_INLINE VI load_bytes(const uint8_t* from) { return hn::BitCast(I32(), hn::LoadU(U8(), from)); }

// One group of k of one block of rows by N vectors of columns from `column`, added to c at that column. x: scales [H]
// f32, corrections [H] i32, then the activations; a quad of k takes 4 bytes where bytes are multiplied, else 8: bytes 0
// and 2, then 1 and 3, in 16 bits.
template <bool kBytes>
constexpr int64_t quad_bytes() {
  return kBytes ? 4 : 8;
}

template <bool kFetch>
HWY_INLINE void call_ahead(const uint8_t* w) {
  if (!kFetch) return;
  __builtin_prefetch(w + kAhead, 0, 2);
  __builtin_prefetch(w + kAhead + 64, 0, 2);
}

// The scale of a column's group times that of the row's.
template <int H, int N>
HWY_INLINE void add_scaled(float* HWY_RESTRICT c, const VI (&sum)[H][N], const float* x_scale, const uint8_t* record,
                           int64_t column, bool fresh) {
  const F32 d;
  for (int v = 0; v < N; ++v) {
    const VF scale = StoredF16::load(reinterpret_cast<const uint16_t*>(record) + column + v * kLanes);
    for (int r = 0; r < H; ++r) {
      float* to = c + r * kPanel + v * kLanes;
      const VF before = fresh ? hn::Zero(d) : hn::Load(d, to);
      const VF part = hn::Mul(hn::ConvertTo(d, sum[r][v]), hn::Set(d, x_scale[r]));
      hn::Store(hn::MulAdd(part, scale, before), d, to);
    }
  }
}
// What the zeros of a record take away, by which sums begin. `x_sum` are corrections of 16 bits for each 1 of a zero.
template <int H, int N>
HWY_INLINE void start_with_zeros(VI (&sum)[H][N], const int32_t* x_sum, const uint8_t* record, int64_t column) {
  const uint8_t* zeros = record + 2 * kPanel + column;
  for (int v = 0; v < N; ++v) {
    const VI zero = hn::PromoteTo(I32(), hn::LoadU(hn::Rebind<uint8_t, I32>(), zeros + v * kLanes));
    for (int r = 0; r < H; ++r) sum[r][v] = pairs_product(zero, hn::Set(I32(), x_sum[r]));
  }
}
// A sum of kMaxGroup activations fits 16 bits, and pairs multiply faster than 32 bits.
inline int32_t zero_correction(int32_t sum) { return -sum & 0xffff; }

template <bool kVnni, bool kGroups>
struct Int8 {
  static constexpr bool kBytes = kVnni;
  static constexpr int64_t kMost = kVnni ? 8 : kMaxHeight;  // rows: 12 reach 0.9 of the rate of 8 on Zen 4
  static constexpr int64_t kInRegisters = kVnni ? 6 : 0;    // rows whose sums of all groups stay in registers too
  static constexpr int kMaxWide = 3;                        // rows up to which many columns are taken at once
  static constexpr size_t kHeader = kGroups ? kGroupHeader : 0;
  static constexpr size_t record(int64_t group) { return kHeader + static_cast<size_t>(group * kPanel); }
  // What all zeros together take away.
  static int32_t correction(int32_t sum) { return kGroups ? zero_correction(sum) : -128 * sum; }

  template <int H, int N, bool kFetch>
  static HWY_INLINE void whole(VI (&sum)[H][N], const uint8_t* HWY_RESTRICT x, const uint8_t* HWY_RESTRICT record,
                               int64_t column, int64_t k) {
    const uint8_t* w = record + kHeader + 4 * column;
    const auto* x_sum = reinterpret_cast<const int32_t*>(x) + H;
    if constexpr (kGroups) start_with_zeros<H, N>(sum, x_sum, record, column);
    for (int r = 0; !kGroups && r < H; ++r) {
      for (int v = 0; v < N; ++v) sum[r][v] = hn::Set(I32(), x_sum[r]);
    }
    const uint8_t* at = x + 8 * H;
    if constexpr (kVnni && !kGroups) k = kInt8Group;  // no branch to be mispredicted at the end of each group
#if defined(__GNUC__)
#pragma GCC unroll 16
#endif
    for (int64_t i = 0; i < k; i += 4) {
      call_ahead<kFetch>(w);
      if constexpr (kVnni) {
        VI bytes[N];
        for (int v = 0; v < N; ++v) bytes[v] = load_bytes(w + v * kLanes * 4);
        for (int r = 0; r < H; ++r) {
          const VI row = four(at + 4 * r);
          for (int v = 0; v < N; ++v) sum[r][v] = dot4(sum[r][v], bytes[v], row);
        }
      } else {
        for (int v = 0; v < N; ++v) {
          const VI bytes = load_bytes(w + v * kLanes * 4);
          const VI even = even_bytes(bytes), odd = odd_bytes(bytes);
          for (int r = 0; r < H; ++r) {
            sum[r][v] = hn::Add(sum[r][v], pairs_product(even, four(at + 8 * r)));
            sum[r][v] = hn::Add(sum[r][v], pairs_product(odd, four(at + 8 * r + 4)));
          }
        }
      }
      at += quad_bytes<kBytes>() * H;
      w += 4 * kPanel;
    }
  }

  template <int H, int N, bool kFetch>
  static HWY_INLINE void group(float* HWY_RESTRICT c, const uint8_t* HWY_RESTRICT x, const uint8_t* HWY_RESTRICT record,
                               int64_t column, int64_t k, bool fresh) {
    const F32 d;
    VI sum[H][N];
    whole<H, N, kFetch>(sum, x, record, column, k);
    const auto* x_scale = reinterpret_cast<const float*>(x);
    if constexpr (kGroups) return add_scaled<H, N>(c, sum, x_scale, record, column, fresh);
    for (int r = 0; r < H; ++r) {
      for (int v = 0; v < N; ++v) {
        float* to = c + r * kPanel + v * kLanes;
        const VF before = fresh ? hn::Zero(d) : hn::Load(d, to);
        hn::Store(hn::MulAdd(hn::ConvertTo(d, sum[r][v]), hn::Set(d, x_scale[r]), before), d, to);
      }
    }
  }

  // The same, of groups one after the other.
  template <int H, int N, bool kFetch>
  static HWY_INLINE void groups(float* c, int64_t c_stride, const uint8_t* HWY_RESTRICT x,
                                const uint8_t* HWY_RESTRICT w, size_t x_group, const ProductCall& call) {
    const F32 d;
    VF out[H][N];
    for (int r = 0; r < H; ++r) {
      for (int v = 0; v < N; ++v)
        out[r][v] = call.continued ? hn::LoadU(d, c + r * c_stride + v * kLanes) : hn::Zero(d);
    }
    for (int64_t k = 0; k < call.depth; k += call.group) {
      VI sum[H][N];
      whole<H, N, kFetch>(sum, x, w, 0, call.group);
      const auto* x_scale = reinterpret_cast<const float*>(x);
      for (int v = 0; v < N; ++v) {
        const VF scale = kGroups ? StoredF16::load(reinterpret_cast<const uint16_t*>(w) + v * kLanes) : hn::Zero(d);
        for (int r = 0; r < H; ++r) {
          const VF part = hn::ConvertTo(d, sum[r][v]), row = hn::Set(d, x_scale[r]);
          out[r][v] = kGroups ? hn::MulAdd(hn::Mul(part, row), scale, out[r][v]) : hn::MulAdd(part, row, out[r][v]);
        }
      }
      x += x_group;
      w += record(call.group);
    }
    for (int r = 0; r < H; ++r) {
      for (int v = 0; v < N; ++v) hn::StoreU(out[r][v], d, c + r * c_stride + v * kLanes);
    }
  }
};

template <bool kVnni>
struct Int4 {
  static constexpr int64_t kInRegisters = 0;
  static constexpr bool kShort = !kVnni && SLUICE_BYTE_PAIRS;
  static constexpr bool kBytes = kVnni || kShort;
  static constexpr int64_t kMost = kVnni ? 8 : kMaxHeight;  // rows: with more, sums and both halves leave the registers
  static constexpr int kMaxWide = 1;
  static constexpr size_t record(int64_t group) { return kGroupHeader + static_cast<size_t>(group * kPanel / 2); }
  static int32_t correction(int32_t sum) { return zero_correction(sum); }

  template <int H, int N, bool kFetch>
  static HWY_INLINE void group(float* HWY_RESTRICT c, const uint8_t* HWY_RESTRICT x, const uint8_t* HWY_RESTRICT record,
                               int64_t column, int64_t k, bool fresh) {
    VI sum[H][N];
    const auto* x_scale = reinterpret_cast<const float*>(x);
    const auto* x_sum = reinterpret_cast<const int32_t*>(x) + H;
    start_with_zeros<H, N>(sum, x_sum, record, column);
    const uint8_t* w = record + kGroupHeader + 4 * column;
    const uint8_t* at = x + 8 * H;
    const VI mask = hn::Set(I32(), 0x0f0f0f0f);
    constexpr int64_t kQuad = quad_bytes<kBytes>() * H;
    for (int64_t i = 0; kVnni && i < k; i += 8) {
      call_ahead<kFetch>(w);
      VI low[N], high[N];
      for (int v = 0; v < N; ++v) {
        const VI bytes = load_bytes(w + v * kLanes * 4);
        low[v] = hn::And(bytes, mask);
        high[v] = hn::And(hn::ShiftRight<4>(bytes), mask);
      }
      for (int r = 0; r < H; ++r) {
        const VI row = four(at + 4 * r), next = four(at + kQuad + 4 * r);
        for (int v = 0; v < N; ++v) sum[r][v] = dot4(dot4(sum[r][v], low[v], row), high[v], next);
      }
      at += 2 * kQuad;
      w += 4 * kPanel;
    }
    for (int64_t i = 0; !kVnni && i < k; i += 32) {
      // Eight sums of two products below 15 * 127 each fit 16 bits.
      [[maybe_unused]] VI short_sum[H][N];
      if constexpr (kShort) {
        for (int r = 0; r < H; ++r) {
          for (int v = 0; v < N; ++v) short_sum[r][v] = hn::Zero(I32());
        }
      }
      for (int64_t step = 0; step < 4; ++step) {
        call_ahead<kFetch>(w);
        for (int v = 0; v < N; ++v) {
          const VI bytes = load_bytes(w + v * kLanes * 4);
          const VI low = hn::And(bytes, mask), high = hn::And(hn::ShiftRight<4>(bytes), mask);
          if constexpr (kShort) {
            for (int r = 0; r < H; ++r) {
              short_sum[r][v] = add16(short_sum[r][v], byte_pairs(low, four(at + 4 * r)));
              short_sum[r][v] = add16(short_sum[r][v], byte_pairs(high, four(at + kQuad + 4 * r)));
            }
          } else {
            const VI parts[4] = {even_bytes(low), odd_bytes(low), even_bytes(high), odd_bytes(high)};
            for (int r = 0; r < H; ++r) {
              for (int p = 0; p < 4; ++p)
                sum[r][v] = hn::Add(sum[r][v], pairs_product(parts[p], four(at + p / 2 * kQuad + 8 * r + p % 2 * 4)));
            }
          }
        }
        at += 2 * kQuad;
        w += 4 * kPanel;
      }
      if constexpr (kShort) {
        const VI ones = hn::Set(I32(), 0x00010001);
        for (int r = 0; r < H; ++r) {
          for (int v = 0; v < N; ++v) sum[r][v] = hn::Add(sum[r][v], pairs_product(short_sum[r][v], ones));
        }
      }
    }
    add_scaled<H, N>(c, sum, x_scale, record, column, fresh);
  }
};

template <class Store, int H, bool kFetch>
HWY_INLINE void block_product(float* c, const uint8_t* x, const uint8_t* w, const ProductCall& call) {
  constexpr int kVectors = H <= Store::kMaxWide ? kWide : kNarrow;
  const F32 d;
  const size_t x_group = static_cast<size_t>(H * (8 + call.group / 4 * quad_bytes<Store::kBytes>()));
  if constexpr (H <= Store::kInRegisters) {
    static_assert(kVectors * kLanes >= kPanel);
    return Store::template groups<H, kVectors, kFetch>(c, call.c_stride, x, w, x_group, call);
  }
  HWY_ALIGN float sums[H * kPanel];  // rows a fixed distance apart, so that no addresses are computed for each group
  for (int64_t r = 0; call.continued && r < H; ++r) {
    for (int64_t i = 0; i < kPanel; i += kLanes)
      hn::Store(hn::LoadU(d, c + r * call.c_stride + i), d, sums + r * kPanel + i);
  }
  for (int64_t k = 0; k < call.depth; k += call.group) {
    const bool fresh = k == 0 && !call.continued;
    Store::template group<H, kVectors, kFetch>(sums, x, w, 0, call.group, fresh);
    for (int64_t column = kVectors * kLanes; column < kPanel; column += kVectors * kLanes)
      Store::template group<H, kVectors, false>(sums + column, x, w, column, call.group, fresh);
    x += x_group;
    w += Store::record(call.group);
  }
  for (int64_t r = 0; r < H; ++r) {
    for (int64_t i = 0; i < kPanel; i += kLanes)
      hn::StoreU(hn::Load(d, sums + r * kPanel + i), d, c + r * call.c_stride + i);
  }
}

template <class Store, int H>
void multiply_blocks(const ProductCall& call) {
  for (int64_t p = 0; p < call.panels; ++p) {
    const auto* panel = static_cast<const uint8_t*>(call.w) + static_cast<size_t>(p) * call.w_panel_bytes;
    for (int64_t b = 0; b < call.blocks; ++b) {
      const auto* x = static_cast<const uint8_t*>(call.x) + static_cast<size_t>(b) * call.x_block_bytes;
      float* c = call.c + b * H * call.c_stride + p * kPanel;
      if (b == 0 && call.call_ahead)
        block_product<Store, H, true>(c, x, panel, call);
      else
        block_product<Store, H, false>(c, x, panel, call);
    }
  }
}

template <class Store>
int64_t block_height(int64_t rows) {
  return Store::kInRegisters > 0 && rows > 8 * Store::kMost ? Store::kInRegisters : even_height(rows, Store::kMost);
}

template <class Store>
void multiply(const ProductCall& call) {
  switch (call.height) {
    case 1:
      return multiply_blocks<Store, 1>(call);
    case 2:
      return multiply_blocks<Store, 2>(call);
    case 3:
      return multiply_blocks<Store, 3>(call);
    case 4:
      return multiply_blocks<Store, 4>(call);
#if HWY_TARGET <= HWY_AVX2
    case 6:
      return multiply_blocks<Store, 6>(call);
#endif
#if HWY_TARGET <= HWY_AVX3
    case 8:
      return multiply_blocks<Store, 8>(call);
    case 10:
      if constexpr (Store::kMost >= 10) return multiply_blocks<Store, 10>(call);
      break;
    case 12:
      if constexpr (Store::kMost >= 12) return multiply_blocks<Store, 12>(call);
      break;
#endif
  }
}

// Rounds n <= kMaxGroup activations to whole numbers up to 127 and returns their scale and sum; the scale is NaN where
// one is not finite.
template <class T>
HWY_INLINE std::pair<float, int32_t> round_group(T* to, const float* x, int64_t n) {
  const F32 d;
  float largest = 0, poison = 0;
  int64_t i = 0;
  VF most = hn::Zero(d), spoilt = hn::Zero(d);
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = hn::LoadU(d, x + i);
    most = hn::Max(most, hn::Abs(v));
    spoilt = hn::MulAdd(v, hn::Zero(d), spoilt);
  }
  largest = hn::GetLane(hn::MaxOfLanes(d, most));
  poison = hn::GetLane(hn::SumOfLanes(d, spoilt));
  for (int64_t j = i; j < n; ++j) {
    largest = std::max(largest, std::abs(x[j]));
    poison += x[j] * 0.0f;
  }
  if (!(poison == 0.0f)) {
    std::fill(to, to + n, T{0});
    return {poison, 0};
  }
  const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
  VI sums = hn::Zero(I32());
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const VI numbers = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse)));
    sums = hn::Add(sums, numbers);
    const hn::Rebind<T, I32> narrow;
    hn::StoreU(hn::DemoteTo(narrow, numbers), narrow, to + i);
  }
  int32_t sum = hn::GetLane(hn::SumOfLanes(I32(), sums));
  for (; i < n; ++i) {
    to[i] = static_cast<T>(std::nearbyint(x[i] * inverse));
    sum += to[i];
  }
  return {inverse == 0.0f ? 0.0f : largest / 127.0f, sum};
}

template <class Store>
void pack_groups(void* to, const float* x, int64_t x_stride, int64_t rows, int64_t height, int64_t cols, int64_t depth,
                 int64_t group) {
  constexpr bool kBytes = Store::kBytes;
  using Number = std::conditional_t<kBytes, int8_t, int16_t>;
  constexpr int64_t kQuad = quad_bytes<kBytes>();
  char* out = static_cast<char*>(to);
  HWY_ALIGN Number numbers[kMaxGroup];
  for (int64_t k = 0; k < depth; k += group) {
    char* data = out + 8 * height;
    for (int64_t r = 0; r < height; ++r) {
      const int64_t valid = r < rows ? std::clamp<int64_t>(cols - k, 0, group) : 0;
      std::pair<float, int32_t> scale_and_sum{0.0f, 0};
      if (valid > 0) scale_and_sum = round_group(numbers, x + r * x_stride + k, valid);
      std::fill(numbers + valid, numbers + group, Number{0});
      const int32_t correction = Store::correction(scale_and_sum.second);
      std::memcpy(out + 4 * r, &scale_and_sum.first, 4);
      std::memcpy(out + 4 * (height + r), &correction, 4);
      char* at = data + r * kQuad;
      for (int64_t i = 0; i < group; i += 4, at += height * kQuad) {
        if (kBytes) {
          std::memcpy(at, numbers + i, 4);
        } else {
          const Number four[4] = {numbers[i], numbers[i + 2], numbers[i + 1], numbers[i + 3]};
          std::memcpy(at, four, sizeof four);
        }
      }
    }
    out = data + group / 4 * height * kQuad;
  }
}

template <class Store>
constexpr ProductKernel make_kernel(std::string_view name) {
  ProductKernel kernel{};
  kernel.name = name;
  kernel.max_height = Store::kMost;
  kernel.x_bytes = static_cast<size_t>(quad_bytes<Store::kBytes>() / 4);
  kernel.block_height = block_height<Store>;
  kernel.multiply = multiply<Store>;
  kernel.x_header = 8;
  kernel.pack_groups = pack_groups<Store>;
  return kernel;
}

const ProductKernel* get_integer_product(Scheme scheme, bool vnni) {
#if HWY_TARGET == HWY_AVX3 && HWY_ARCH_X86
  static constexpr ProductKernel kDot8 = make_kernel<Int8<true, false>>("int8-vnni"),
                                 kDot8Groups = make_kernel<Int8<true, true>>("int8g-vnni"),
                                 kDot4 = make_kernel<Int4<true>>("int4-vnni");
  if (vnni) return scheme == Scheme::kInt8 ? &kDot8 : scheme == Scheme::kInt4 ? &kDot4 : &kDot8Groups;
#endif
  static constexpr ProductKernel kInt8 = make_kernel<Int8<false, false>>("int8"),
                                 kInt8Groups = make_kernel<Int8<false, true>>("int8g"),
                                 kInt4 = make_kernel<Int4<false>>("int4");
  return scheme == Scheme::kInt8 ? &kInt8 : scheme == Scheme::kInt4 ? &kInt4 : &kInt8Groups;
}

}  // namespace HWY_NAMESPACE
}  // namespace sluice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {
HWY_EXPORT(get_integer_product);
const ProductKernel& integer_product(Scheme scheme, int64_t vector_targets, bool vnni) {
  return *SLUICE_DISPATCH(get_integer_product, vector_targets)(scheme, vnni);
}
}  // namespace sluice
#endif
