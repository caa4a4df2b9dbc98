// SPDX-License-Identifier: Apache-2.0
// kernels/tensor_core.h for the emulation, by the same names. An asynchronous copy is made when it is waited for, no
// sooner; sums of a product are made in order of k, in f32.
#pragma once

#include <cmath>
#include <vector>

#include "device.h"

namespace sluice::kernels {
namespace twin {

struct Operands {
  uint32_t a[4], b[2];
};

template <class T>
void multiply(emulation::WarpSlots& slots) {
  float a[16][16], b[16][8];
  const emulation::Unwatched quiet;
  for (int l = 0; l < 32; ++l) {
    Operands o;
    std::memcpy(&o, slots.in[l], sizeof o);
    const int g = l / 4, i = 2 * (l % 4);
    for (int r = 0; r < 4; ++r) {
      T pair[2];
      std::memcpy(static_cast<void*>(pair), &o.a[r], 4);
      for (int e = 0; e < 2; ++e) a[g + 8 * (r % 2)][i + 8 * (r / 2) + e] = to_float(pair[e]);
    }
    for (int r = 0; r < 2; ++r) {
      T pair[2];
      std::memcpy(static_cast<void*>(pair), &o.b[r], 4);
      for (int e = 0; e < 2; ++e) b[i + 8 * r + e][g] = to_float(pair[e]);
    }
  }
  float d[16][8] = {};
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, i = 2 * (l % 4);
    const float own[4] = {d[g][i], d[g][i + 1], d[g + 8][i], d[g + 8][i + 1]};
    std::memcpy(slots.out[l], own, sizeof own);
  }
}

inline void load(uint32_t (&r)[4], const void* row, bool transposed) {
  const auto& slots = emulation::warp_exchange(kAllLanes, &row, sizeof row);
  const int lane = emulation::lane();
  for (int m = 0; m < 4; ++m) {
    uint16_t pair[2];
    for (int e = 0; e < 2; ++e) {
      const int y = lane / 4, x = 2 * (lane % 4) + e;
      const uint16_t* from;
      std::memcpy(&from, slots.in[8 * m + (transposed ? x : y)], sizeof from);
      pair[e] = from[transposed ? y : x];
    }
    std::memcpy(&r[m], pair, 4);
  }
}

struct Copy {
  void* to;
  const void* from;
  bool valid;
};
// Of each thread of the block.
inline std::vector<std::vector<Copy>> groups[1024];
inline std::vector<Copy> open[1024];

}  // namespace twin

template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  twin::Operands o;
  std::memcpy(o.a, a, sizeof o.a);
  std::memcpy(o.b, b, sizeof o.b);
  const auto& slots = emulation::warp_exchange(kAllLanes, &o, sizeof o, twin::multiply<T>);
  float sum[4];
  std::memcpy(sum, slots.out[emulation::lane()], sizeof sum);
  for (int i = 0; i < 4; ++i) d[i] += sum[i];
}

inline void load_matrices(uint32_t (&r)[4], const void* row) { twin::load(r, row, false); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) { twin::load(r, row, true); }

inline void copy_async(void* shared, const void* global, bool valid) {
  twin::open[emulation::thread_index()].push_back({shared, global, valid});
}
inline void commit_copies() {
  const int t = emulation::thread_index();
  twin::groups[t].push_back(std::move(twin::open[t]));
  twin::open[t].clear();
}
template <int kPending>
void wait_copies() {
  auto& groups = twin::groups[emulation::thread_index()];
  while (groups.size() > kPending) {
    for (const twin::Copy& c : groups.front()) {
      if (c.valid) emulation::watch_access(c.from, 16, false);
      emulation::watch_access(c.to, 16, true);
      if (c.valid) {
        std::memcpy(c.to, c.from, 16);
      } else {
        std::memset(c.to, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

inline float fast_exp2(float x) { return std::exp2(x); }
inline uint4 load_once(const void* global) { return *static_cast<const uint4*>(global); }

// One kernel runs at a time.
inline void after_previous() {}
inline void let_next_begin() {}

}  // namespace sluice::kernels
