#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a test capped to AVX2, the instructions of older CPUs; answers 77 where this CPU has no more than that, so that the
# test without the cap was the same. Usage: capped.sh TEST
set -euo pipefail
if ! grep -qm1 avx512f /proc/cpuinfo; then
  echo "SKIPPED: this CPU has nothing above AVX2; $(basename "$1") without the cap is the same test"
  exit 77
fi
SLUICE_CPU_ISA=avx2 exec "$1"
