// SPDX-License-Identifier: Apache-2.0
// The bf16 product on AMX: a tile register holds 16 rows of 64 bytes, and one instruction adds the product of a
// [16, 32] and a [32, 16] tile to a [16, 16] tile of sums. Two blocks of rows by one panel keep four tiles of sums in
// flight. With one block the product waits for memory anyway; what counts is that weights stream in without a gap.
#include "backend/cpu/product.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")
#include <immintrin.h>

#include <algorithm>

namespace sluice {
namespace {
constexpr int64_t kMaxHeight = 16;
constexpr int64_t kStep = 32;             // k of one tile
constexpr size_t kPanelRow = kPanel * 4;  // bytes of one pair of k in a panel

// Tile registers: 0-3 sums, 4-5 activations, 6-7 weights.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

class Tiles {
 public:
  explicit Tiles(int64_t height) {
    TileConfig config;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = 64;
      config.rows[i] = i < 6 ? static_cast<uint8_t>(height) : 16;
    }
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
};

// Where the parts of one call lie.
struct Place {
  const ProductCall& call;
  const char* x(int64_t block) const {
    return static_cast<const char*>(call.x) + static_cast<size_t>(block) * call.x_block_bytes;
  }
  const char* w(int64_t panel) const {
    return static_cast<const char*>(call.w) + static_cast<size_t>(panel) * call.w_panel_bytes;
  }
  float* c(int64_t block, int64_t panel) const { return call.c + block * call.height * call.c_stride + panel * kPanel; }
};

#define SLUICE_TILE_BEGIN(tile, from)       \
  if (call.continued)                       \
    _tile_loadd(tile, (from), c_row_bytes); \
  else                                      \
    _tile_zero(tile)

// Weights to call into the second-level cache while others are multiplied: `lines` of 64 bytes at each step of k.
struct Ahead {
  const char* at;
  int64_t lines;
  void step() {
    for (int64_t i = 0; i < lines; ++i) _mm_prefetch(at + 64 * i, _MM_HINT_T1);
    at += 64 * lines;
  }
};

// Two blocks of rows by one panel.
inline void two_by_one(const ProductCall& call, const char* x0, const char* x1, const char* w, float* c0, float* c1,
                       Ahead ahead) {
  const int64_t c_row_bytes = call.c_stride * 4, x_tile = call.height * 64;
  SLUICE_TILE_BEGIN(0, c0);
  SLUICE_TILE_BEGIN(1, c0 + 16);
  SLUICE_TILE_BEGIN(2, c1);
  SLUICE_TILE_BEGIN(3, c1 + 16);
  for (int64_t k = 0; k < call.depth; k += kStep) {
    ahead.step();
    _tile_loadd(6, w, kPanelRow);
    _tile_loadd(4, x0, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + 64, kPanelRow);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, x1, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    x0 += x_tile;
    x1 += x_tile;
    w += kStep / 2 * kPanelRow;
  }
  _tile_stored(0, c0, c_row_bytes);
  _tile_stored(1, c0 + 16, c_row_bytes);
  _tile_stored(2, c1, c_row_bytes);
  _tile_stored(3, c1 + 16, c_row_bytes);
}

inline void one_by_one(const ProductCall& call, const char* x, const char* w, float* c, Ahead ahead) {
  const int64_t c_row_bytes = call.c_stride * 4, x_tile = call.height * 64;
  SLUICE_TILE_BEGIN(0, c);
  SLUICE_TILE_BEGIN(1, c + 16);
  for (int64_t k = 0; k < call.depth; k += kStep) {
    ahead.step();
    _tile_loadd(4, x, 64);
    _tile_loadd(6, w, kPanelRow);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + 64, kPanelRow);
    _tile_dpbf16ps(1, 4, 7);
    x += x_tile;
    w += kStep / 2 * kPanelRow;
  }
  _tile_stored(0, c, c_row_bytes);
  _tile_stored(1, c + 16, c_row_bytes);
}
#undef SLUICE_TILE_BEGIN

void multiply(const ProductCall& call) {
  constexpr int64_t kLines = kStep / 2 * kPanelRow / 64;  // of one panel's weights at one step
  const Tiles tiles(call.height);
  const Place at{call};
  const int64_t pairs = (call.blocks + 1) / 2;
  for (int64_t p = 0; p < call.panels; ++p) {
    // With one pass over the panel its own weights are called a little ahead; with more, each calls a share of the next
    // panel's.
    const char* next = p + 1 < call.panels ? at.w(p + 1) : static_cast<const char*>(call.next);
    Ahead ahead{pairs == 1 ? at.w(p) + kAhead : next, (kLines + pairs - 1) / pairs};
    int64_t b = 0;
    for (; b + 2 <= call.blocks; b += 2) {
      two_by_one(call, at.x(b), at.x(b + 1), at.w(p), at.c(b, p), at.c(b + 1, p), ahead);
      ahead.at += call.depth / kStep * ahead.lines * 64;
    }
    if (b < call.blocks) one_by_one(call, at.x(b), at.w(p), at.c(b, p), ahead);
  }
}

int64_t block_height(int64_t rows) { return rows < kMaxHeight ? rows : kMaxHeight; }

// [depth / 32][height][32] bf16: tiles one after the other.
void pack_rows(void* to, const float* x, int64_t x_stride, int64_t rows, int64_t height, int64_t cols, int64_t depth) {
  char* out = static_cast<char*>(to);
  for (int64_t k = 0; k < depth; k += kStep) {
    for (int64_t r = 0; r < height; ++r, out += 64) {
      const float* from = x + r * x_stride + k;
      const int64_t valid = r < rows ? std::clamp<int64_t>(cols - k, 0, kStep) : 0;
      const __mmask16 low = static_cast<__mmask16>((1u << std::min<int64_t>(valid, 16)) - 1);
      const __mmask16 high = static_cast<__mmask16>((1u << std::max<int64_t>(valid - 16, 0)) - 1);
      const __m512bh packed =
          _mm512_cvtne2ps_pbh(high == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(high, from + 16),
                              low == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(low, from));
      _mm512_store_si512(out, (__m512i)packed);
    }
  }
}
}  // namespace

const ProductKernel* tile_product() {
  static constexpr ProductKernel kKernel{"amx-bf16", kMaxHeight, 2, block_height, pack_rows, multiply};
  return &kKernel;
}

}  // namespace sluice
#pragma GCC pop_options
#else
namespace sluice {
const ProductKernel* tile_product() { return nullptr; }
}  // namespace sluice
#endif
