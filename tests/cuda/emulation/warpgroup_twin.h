// SPDX-License-Identifier: Apache-2.0
// kernels/warpgroup.h's products for the emulation, by the same names: made when they are issued, sums in order of k.
#pragma once

#include "block.h"
#include "device.h"

namespace sluice::kernels {
namespace twin {

// Element `at` behind the slice's start, found as the device does: by permuting the address.
template <class T, int kPanel>
float element(const PanelSlice& s, int at) {
  const unsigned char* base = emulation::shared_bytes();
  const int byte = static_cast<int>(static_cast<const unsigned char*>(s.start) - base) + 2 * at;
  const int place = byte ^ ((byte >> 7 & (kPanel / 8 - 1)) << 4);
  return to_float(*reinterpret_cast<const T*>(base + place));
}

}  // namespace twin

inline void products_begin() {}
inline void products_commit() {}
inline void show_to_products() {}
template <int kPending, int kTiles>
void products_wait(float (&)[kTiles][4]) {}

template <class T, int kPanel, int kTiles>
void multiply_rows(float (&d)[kTiles][4], const PanelSlice& a, const PanelSlice& b, bool add) {
  const int thread = emulation::thread_index() % kGroupThreads, lane = thread % kWarpSize;
  float rows[2][16];
  for (int r = 0; r < 2; ++r) {
    const int row = thread / kWarpSize * 16 + lane / 4 + 8 * r;
    for (int k = 0; k < 16; ++k) rows[r][k] = twin::element<T, kPanel>(a, row * kPanel + k);
  }
  for (int i = 0; i < kTiles; ++i) {
    for (int c = 0; c < 2; ++c) {
      float sum[2] = {0, 0};
      for (int k = 0; k < 16; ++k) {
        const float v = twin::element<T, kPanel>(b, (8 * i + 2 * (lane % 4) + c) * kPanel + k);
        for (int r = 0; r < 2; ++r) sum[r] += rows[r][k] * v;
      }
      for (int r = 0; r < 2; ++r) d[i][2 * r + c] = (add ? d[i][2 * r + c] : 0.0f) + sum[r];
    }
  }
}

template <class T, int kPanel, int kTiles>
void multiply_columns(float (&d)[kTiles][4], const uint32_t (&a)[4], const PanelSlice& b) {
  const int lane = emulation::lane();
  const auto& slots = emulation::warp_exchange(kAllLanes, &a, sizeof a);
  float rows[2][16];
  for (int l = lane / 4 * 4; l < lane / 4 * 4 + 4; ++l) {
    T pairs[4][2];
    std::memcpy(static_cast<void*>(pairs), slots.in[l], sizeof pairs);
    for (int m = 0; m < 4; ++m) {
      for (int e = 0; e < 2; ++e) rows[m % 2][m / 2 * 8 + 2 * (l % 4) + e] = to_float(pairs[m][e]);
    }
  }
  for (int i = 0; i < kTiles; ++i) {
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * i + 2 * (lane % 4) + c, panel = column / kPanel * (b.panel_bytes / 2);
      float sum[2] = {0, 0};
      for (int k = 0; k < 16; ++k) {
        const float v = twin::element<T, kPanel>(b, panel + k * kPanel + column % kPanel);
        for (int r = 0; r < 2; ++r) sum[r] += rows[r][k] * v;
      }
      for (int r = 0; r < 2; ++r) d[i][2 * r + c] += sum[r];
    }
  }
}

}  // namespace sluice::kernels
