// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/isa.h"

#include <fmt/format.h>
#include <hwy/targets.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/error.h"

namespace sluice {
namespace {
#if defined(__x86_64__)
uint32_t cpuid_bits(uint32_t leaf, uint32_t subleaf, int reg) {
  unsigned regs[4] = {};
  if (__get_cpuid_count(leaf, subleaf, &regs[0], &regs[1], &regs[2], &regs[3]) == 0) return 0;
  return regs[reg];
}

bool has_avx512_bf16() { return (cpuid_bits(7, 1, 0) & (1u << 5)) != 0; }

bool has_avx512_vnni() { return (cpuid_bits(7, 0, 2) & (1u << 11)) != 0; }

bool is_amd() {
  unsigned regs[4] = {};
  return __get_cpuid(0, &regs[0], &regs[1], &regs[2], &regs[3]) != 0 && regs[1] == signature_AMD_ebx;
}

// Intel's cores do the dot product at a quarter of AMD's rate, slower than widening to f32.
bool has_fast_pairs() { return has_avx512_bf16() && is_amd(); }

// A program must ask for the 8 KiB tile state before it first touches a tile, or dies of SIGILL
// (Linux, Documentation/arch/x86/xstate.rst).
bool may_use_amx() {
  constexpr uint32_t kTile = 1u << 24, kBf16 = 1u << 22;
  if ((cpuid_bits(7, 0, 3) & (kTile | kBf16)) != (kTile | kBf16)) return false;
#if defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#else
bool is_amd() { return false; }
bool has_avx512_bf16() { return false; }
bool has_avx512_vnni() { return false; }
bool has_fast_pairs() { return false; }
bool may_use_amx() { return false; }
#endif
}  // namespace

CpuIsa detect_isa(std::string_view wanted) {
  CpuIsa isa;
  isa.call_ahead = !is_amd();
  const int64_t supported = hwy::SupportedTargets();
  if (wanted == "avx2") {
    isa.vector_targets = supported & ~(int64_t{HWY_AVX2} - 1);  // lower bits are better targets
  } else if (wanted == "auto") {
    isa.vector_targets = supported;
    if ((supported & HWY_AVX3) != 0) {
      isa.bf16_pairs = has_fast_pairs();
      isa.vnni = has_avx512_vnni();
      isa.amx_bf16 = has_avx512_bf16() && may_use_amx();
    }
  } else {
    throw Error(fmt::format("cpu-isa: expected auto or avx2, found '{}'", wanted));
  }
  const int64_t best = isa.vector_targets & -isa.vector_targets;
  isa.name = isa.amx_bf16       ? "AMX-BF16"
             : isa.bf16_pairs   ? "AVX512-BF16"
             : best == HWY_AVX3 ? "AVX-512"
                                : std::string_view(hwy::TargetName(best));
  return isa;
}

}  // namespace sluice
