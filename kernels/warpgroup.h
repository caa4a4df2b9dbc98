// SPDX-License-Identifier: Apache-2.0
// Products of a warpgroup (four warps, compute capability 9.0), which read their operands in shared memory while the
// warps go on. Each has a twin for the emulation.
#pragma once

#include <type_traits>

#include "device.h"
#include "launch.h"

namespace sluice::kernels {

constexpr int kGroupThreads = 4 * kWarpSize;

// Whether the device has such products and this build has code for them (sm_90a).
#ifdef SLUICE_CUDA_EMULATED
inline bool has_warpgroup_products() { return emulation::warpgroup_products(); }
#else
inline bool has_warpgroup_products() {
#ifdef SLUICE_SM90A
  static const bool has = [] {
    int device = 0, major = 0, minor = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
           cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 &&
           minor == 0;
  }();
  return has;
#else
  return false;
#endif
}
#endif

// How such operands lie in shared memory: panels of kPanel = 16, 32 or 64 columns, one after another from a multiple of
// 1024 bytes, each with its rows one after another and the 16-byte pieces of a row permuted. Where piece `piece` of row
// `row` of kRows lies, in elements.
template <int kPanel, int kRows>
__device__ __forceinline__ int panel_place(int row, int piece) {
  constexpr int kPieces = kPanel / 8;
  const int at = (piece / kPieces * kRows + row) * kPanel + piece % kPieces * 8;
  return at ^ ((at >> 6 & (kPieces - 1)) << 3);
}

// The part of an operand that one product takes: 16 columns of a panel (`start` is its first row's first element before
// the permutation), or 16 rows of all panels.
struct PanelSlice {
  const void* start;
  int panel_bytes;  // from panel to panel
};

}  // namespace sluice::kernels

#ifdef SLUICE_CUDA_EMULATED
#include "warpgroup_twin.h"
#else

namespace sluice::kernels {

template <int kPanel>
__device__ __forceinline__ uint64_t descriptor(const PanelSlice& s) {
  constexpr uint64_t kSwizzle = kPanel == 64 ? 1 : kPanel == 32 ? 2 : 3, kEightRows = kPanel;  // in units of 16 bytes
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(s.start));
  return (address >> 4 & 0x3fff) | static_cast<uint64_t>(s.panel_bytes / 16) << 16 | kEightRows << 32 | kSwizzle << 62;
}

// Registers may be read by products that are issued from here on.
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// What this thread wrote to shared memory (asynchronous copies that it waited for included) is seen by products that
// are issued after the next barrier.
__device__ __forceinline__ void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Waits until at most the kPending latest groups of products are under way; `d` belongs to those that have ended.
template <int kPending, int kTiles>
__device__ __forceinline__ void products_wait(float (&d)[kTiles][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(d[i][e])::"memory");
  }
}

#define SLUICE_F4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define SLUICE_F16(i) SLUICE_F4(i), SLUICE_F4(i + 1), SLUICE_F4(i + 2), SLUICE_F4(i + 3)
#define SLUICE_F64(i) SLUICE_F16(i), SLUICE_F16(i + 4), SLUICE_F16(i + 8), SLUICE_F16(i + 12)
#define SLUICE_TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define SLUICE_R30 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9," SLUICE_TEN(1) SLUICE_TEN(2)
#define SLUICE_R60 SLUICE_R30 SLUICE_TEN(3) SLUICE_TEN(4) SLUICE_TEN(5)
#define SLUICE_R32 SLUICE_R30 "%30,%31}"
#define SLUICE_R40 SLUICE_R30 "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39}"
#define SLUICE_R48 SLUICE_R30 SLUICE_TEN(3) "%40,%41,%42,%43,%44,%45,%46,%47}"
#define SLUICE_R64 SLUICE_R60 "%60,%61,%62,%63}"
#define SLUICE_R128                                                                 \
  SLUICE_R60 SLUICE_TEN(6) SLUICE_TEN(7) SLUICE_TEN(8) SLUICE_TEN(9) SLUICE_TEN(10) \
      SLUICE_TEN(11) "%120,%121,%122,%123,%124,%125,%126,%127}"

// d (+)= a b with a [64 x 16] and b [16 x n] in shared memory, whose summed dimension lies along the rows.
#define SLUICE_ROWS_BY_ROWS(type, n, regs, a_at, b_at, add_at, ...)                                             \
  asm volatile("{.reg .pred p; setp.ne.b32 p, %" #add_at                                                        \
               ", 0;\n"                                                                                         \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " " regs ", %" #a_at ", %" #b_at \
               ", p, 1, 1, 0, 0;}"                                                                              \
               : __VA_ARGS__                                                                                    \
               : "l"(descriptor<kPanel>(a)), "l"(descriptor<kPanel>(b)), "r"(static_cast<uint32_t>(add)))
// d += a b with a in registers (as mma's, of each warp's 16 rows) and b [16 x n] in shared memory by rows.
#define SLUICE_REGISTERS_BY_COLUMNS(type, n, regs, a0, a1, a2, a3, b_at, ...)                                        \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " " regs ", {%" #a0 ",%" #a1 ",%" #a2 \
               ",%" #a3 "}, %" #b_at ", 1, 1, 1, 1;"                                                                 \
               : __VA_ARGS__                                                                                         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor<kPanel>(b)))

// Both issue work that products_commit closes and products_wait waits for. d is as mma's: of warp w rows 16 w + (0 to
// 15), of tile i columns 8 i + (0 to 7).
template <class T, int kPanel, int kTiles>
__device__ __forceinline__ void multiply_rows(float (&d)[kTiles][4], const PanelSlice& a, const PanelSlice& b,
                                              bool add) {
  static_assert(kTiles == 8 || kTiles == 16);
  if constexpr (kTiles == 8) {
    if constexpr (std::is_same_v<T, bf16>) {
      SLUICE_ROWS_BY_ROWS("bf16", 64, SLUICE_R32, 32, 33, 34, SLUICE_F16(0), SLUICE_F16(4));
    } else {
      SLUICE_ROWS_BY_ROWS("f16", 64, SLUICE_R32, 32, 33, 34, SLUICE_F16(0), SLUICE_F16(4));
    }
  } else {
    if constexpr (std::is_same_v<T, bf16>) {
      SLUICE_ROWS_BY_ROWS("bf16", 128, SLUICE_R64, 64, 65, 66, SLUICE_F64(0));
    } else {
      SLUICE_ROWS_BY_ROWS("f16", 128, SLUICE_R64, 64, 65, 66, SLUICE_F64(0));
    }
  }
}
#define SLUICE_CASE(tiles, n, regs, a0, a1, a2, a3, b_at, ...)                       \
  if constexpr (kTiles == tiles && std::is_same_v<T, bf16>) {                        \
    SLUICE_REGISTERS_BY_COLUMNS("bf16", n, regs, a0, a1, a2, a3, b_at, __VA_ARGS__); \
  } else if constexpr (kTiles == tiles) {                                            \
    SLUICE_REGISTERS_BY_COLUMNS("f16", n, regs, a0, a1, a2, a3, b_at, __VA_ARGS__);  \
  }
template <class T, int kPanel, int kTiles>
__device__ __forceinline__ void multiply_columns(float (&d)[kTiles][4], const uint32_t (&a)[4], const PanelSlice& b) {
  static_assert(kTiles == 8 || kTiles == 10 || kTiles == 12 || kTiles == 16 || kTiles == 32);
  SLUICE_CASE(8, 64, SLUICE_R32, 32, 33, 34, 35, 36, SLUICE_F16(0), SLUICE_F16(4))
  SLUICE_CASE(10, 80, SLUICE_R40, 40, 41, 42, 43, 44, SLUICE_F16(0), SLUICE_F16(4), SLUICE_F4(8), SLUICE_F4(9))
  SLUICE_CASE(12, 96, SLUICE_R48, 48, 49, 50, 51, 52, SLUICE_F16(0), SLUICE_F16(4), SLUICE_F16(8))
  SLUICE_CASE(16, 128, SLUICE_R64, 64, 65, 66, 67, 68, SLUICE_F64(0))
  SLUICE_CASE(32, 256, SLUICE_R128, 128, 129, 130, 131, 132, SLUICE_F64(0), SLUICE_F64(16))
}

}  // namespace sluice::kernels
#endif
