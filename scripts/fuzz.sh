#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fuzzes parsers, guided by coverage, with clang's libFuzzer, AddressSanitizer and UBSan.
# Usage: fuzz.sh TARGET SECONDS [libFuzzer options]   (TARGET is a file of tests/fuzz without .cpp)
#        fuzz.sh --all SECONDS [AT_ONCE]              every target, AT_ONCE (2) at a time
#        fuzz.sh --coverage [TARGET ...]              lines of each parser that the kept and the new inputs reach
# New inputs are kept in build/fuzz/found/TARGET, what libFuzzer says in build/fuzz/TARGET.log; an input that fails is written to
# build/fuzz/found/TARGET as finding-... BUILD_DIR=DIR keeps the build elsewhere.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(common::root)"
build=${BUILD_DIR:-build/fuzz}

fuzz::targets() { sed -n 's/^sluice_fuzz(\([a-z_]*\) .*/\1/p' tests/fuzz/CMakeLists.txt; }

fuzz::check() {
  fuzz::targets | grep -qx -- "$1" || common::err "there is no fuzz target $1; targets: $(fuzz::targets | tr '\n' ' ')"
}

# fuzz::build TARGET...: with coverage of lines too, so that one build serves both.
fuzz::build() {
  common::install "${SLUICE_BUILD_PACKAGES[@]}" "${SLUICE_TEST_PACKAGES[@]}" clang llvm libclang-rt-14-dev
  if [[ ! -f $build/build.ninja ]]; then
    CC=clang CXX=clang++ cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSLUICE_LIBFUZZER=ON \
      -DSLUICE_SANITIZE=address,undefined,fuzzer-no-link \
      -DCMAKE_CXX_FLAGS="-fprofile-instr-generate -fcoverage-mapping" >/dev/null
  fi
  cmake --build "$build" --target "${@/%/_fuzz}" -j "${JOBS:-2}"
}

# fuzz::run TARGET [libFuzzer options]
fuzz::run() {
  local target=$1 found=$build/found/$1 dictionary=tests/fuzz/dict/$1.dict
  shift
  mkdir -p "$found"
  [[ -f $dictionary ]] || dictionary=tests/fuzz/dict/json.dict
  LLVM_PROFILE_FILE=${PROFILE:-/dev/null} UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "$build/tests/fuzz/${target}_fuzz" "$found" \
    "tests/fuzz/corpus/$target" -dict="$dictionary" -artifact_prefix="$found/finding-" -timeout=20 -rss_limit_mb=4096 -max_len=65536 "$@"
}

# fuzz::campaign TARGET SECONDS: one line of outcome.
fuzz::campaign() {
  local outcome="no finding"
  fuzz::run "$1" -max_total_time="$2" -print_final_stats=1 >"$build/$1.log" 2>&1 || outcome="FINDING, see $build/$1.log"
  printf '%-14s %12s executions, %s\n' "$1" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$1.log")" "$outcome"
  [[ $outcome == "no finding" ]]
}

fuzz::coverage() {
  local target=$1 profile=$build/$1.profraw files
  mapfile -t files < <(sed -n "s/^$target //p" "$build/tests/fuzz/reads.txt")
  PROFILE=$profile fuzz::run "$target" -runs=0 >"$build/$target.coverage.log" 2>&1 || common::err "$target fails on its corpus, see $build/$target.coverage.log"
  llvm-profdata merge -sparse "$profile" -o "$build/$target.profdata"
  rm "$profile"
  llvm-cov report "$build/tests/fuzz/${target}_fuzz" -instr-profile="$build/$target.profdata" 2>/dev/null |
    awk -v target="$target" -v wanted="${files[*]}" '
      BEGIN { split(wanted, list, " "); for (i in list) want[list[i]] = 1 }
      { sub(/.*\.\.\//, "", $1) } # of the build folder
      $1 in want { lines += $8; missed += $9; detail = detail sprintf("    %-44s %6.1f %%\n", $1, $8 ? 100 * ($8 - $9) / $8 : 0) }
      END { if (!lines) exit 1; printf "%-14s %6d lines, %6.1f %% reached\n%s", target, lines, 100 * (lines - missed) / lines, detail }'
}

case ${1:-} in
--coverage)
  shift
  mapfile -t targets < <(fuzz::targets)
  (($# == 0)) || targets=("$@")
  for target in "${targets[@]}"; do fuzz::check "$target"; done
  fuzz::build "${targets[@]}" >&2
  for target in "${targets[@]}"; do fuzz::coverage "$target"; done
  ;;
--all)
  [[ ${2:-} =~ ^[1-9][0-9]*$ && ${3:-2} =~ ^[1-9][0-9]*$ ]] || common::err "usage: fuzz.sh --all SECONDS [AT_ONCE], whole numbers above 0"
  mapfile -t targets < <(fuzz::targets)
  fuzz::build "${targets[@]}" >&2
  export -f fuzz::run fuzz::campaign
  export build
  printf '%s\n' "${targets[@]}" | xargs -P "${3:-2}" -I{} bash -c "fuzz::campaign {} $2"
  ;;
*)
  (($# >= 2)) || common::err "usage: fuzz.sh TARGET SECONDS; targets: $(fuzz::targets | tr '\n' ' ')"
  target=$1 seconds=$2
  shift 2
  fuzz::check "$target"
  [[ $seconds =~ ^[1-9][0-9]*$ ]] || common::err "SECONDS is '$seconds', expected a whole number above 0"
  fuzz::build "$target"
  fuzz::run "$target" -max_total_time="$seconds" -print_final_stats=1 "$@"
  ;;
esac
