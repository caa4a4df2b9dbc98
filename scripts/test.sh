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
common::log "building (build/cpu)"
cmake --preset cpu -DSLUICE_TESTS=ON >/dev/null
cmake --build --preset cpu
if [[ -x scripts/client-env.sh ]]; then
  common::log "client packages"
  ./scripts/client-env.sh
fi
if command -v nvcc >/dev/null; then
  common::log "nvcc is here, and the CUDA backend is not built by this release: CPU tests only"
else
  common::log "no nvcc: CPU tests only"
fi
common::log "tests"
ctest --preset cpu "$@"
