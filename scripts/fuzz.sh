#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fuzzes one parser, guided by coverage, with clang's libFuzzer, AddressSanitizer and UBSan.
# Usage: fuzz.sh TARGET SECONDS [libFuzzer options]   (TARGET is a file of tests/fuzz without .cpp)
# New inputs are kept in build/fuzz/found/TARGET; an input that fails is written there as finding-...
# BUILD_DIR=DIR keeps the build elsewhere.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(common::root)"

targets() { sed -n 's/^sluice_fuzz(\([a-z_]*\) .*/\1/p' tests/fuzz/CMakeLists.txt | tr '\n' ' '; }
(($# >= 2)) || common::err "usage: fuzz.sh TARGET SECONDS; targets: $(targets)"
target=$1 seconds=$2
shift 2
[[ " $(targets)" == *" $target "* ]] || common::err "there is no fuzz target $target; targets: $(targets)"
[[ $seconds =~ ^[1-9][0-9]*$ ]] || common::err "SECONDS is '$seconds', expected a whole number above 0"

common::install "${SLUICE_BUILD_PACKAGES[@]}" "${SLUICE_TEST_PACKAGES[@]}" clang libclang-rt-14-dev
build=${BUILD_DIR:-build/fuzz}
if [[ ! -f $build/build.ninja ]]; then
  CC=clang CXX=clang++ cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSLUICE_LIBFUZZER=ON \
    -DSLUICE_SANITIZE=address,undefined,fuzzer-no-link -DSLUICE_ONEDNN=OFF -DSLUICE_OPENMP=OFF >/dev/null
fi
cmake --build "$build" --target "${target}_fuzz" -j "${JOBS:-2}"

found=$build/found/$target
mkdir -p "$found"
dictionary=tests/fuzz/dict/$target.dict
[[ -f $dictionary ]] || dictionary=tests/fuzz/dict/json.dict
UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "$build/tests/fuzz/${target}_fuzz" "$found" "tests/fuzz/corpus/$target" \
  -dict="$dictionary" -artifact_prefix="$found/finding-" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 \
  -max_len=65536 -print_final_stats=1 "$@"
