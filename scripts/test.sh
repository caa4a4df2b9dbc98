#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests need, builds, and runs every test: unit, golden, slurm (two nodes on this machine), clients, fuzz.
# Usage: test.sh [ctest arguments], for instance: test.sh -L unit
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(common::root)"

common::install "${SLUICE_BUILD_PACKAGES[@]}" "${SLUICE_TEST_PACKAGES[@]}"
common::log "lint"
./scripts/lint.sh --quick
# The client packages come over the network: meanwhile the compiler works.
./scripts/client-env.sh &
clients=$!
common::log "building (build/cpu)"
cmake --preset cpu -DSLUICE_TESTS=ON >/dev/null
cmake --build --preset cpu
wait "$clients"
nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null || true)
if [[ -n $nvcc ]]; then
  common::log "building kernels and CUDA backend with $nvcc for sm_80 and sm_90 (build/cuda-dev)"
  cmake --preset cuda-dev -DCMAKE_CUDA_COMPILER="$nvcc" -DCMAKE_CUDA_ARCHITECTURES="80-real;90-real" -DSLUICE_TESTS=OFF >/dev/null
  cmake --build --preset cuda-dev --target sluice_cuda
  ./tests/cuda/load_test.sh build/cpu/sluice build/cuda-dev/sluice_cuda.so tests/models/demo
else
  common::log "NO NVCC: the CUDA kernels and backend are NOT compiled for GPUs here; install the CUDA toolkit to check them"
fi
common::log "tests"
# Two at a time: those on Slurm wait more than they work.
ctest --preset cpu -j 2 "$@"
