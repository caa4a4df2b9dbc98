#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# mpirun_test.sh PROGRAM: ranks that mpirun starts find each other; two runs at once do not mix; a killed rank ends all.
set -euo pipefail
program=$1

if ! command -v mpirun >/dev/null; then
  echo "SKIPPED: mpirun is not installed; ranks under mpirun are not tested on this machine" >&2
  exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SLUICE_HOME=$work/home

options=()
if [[ $(mpirun --version) == *"Open MPI"* || $(mpirun --version) == *OpenRTE* ]]; then
  options=(--oversubscribe --bind-to none)
  [[ $(id -u) == 0 ]] && options+=(--allow-run-as-root)
fi

mpirun_test::run() {
  local -r ranks=$1
  shift
  timeout 60 mpirun -n "$ranks" "${options[@]}" "$program" "$@"
}

mpirun_test::fail() {
  echo "$1" >&2
  cat "$work"/*.log >&2
  exit 1
}

mpirun_test::run 3 form >"$work/a.log" 2>&1 &
first=$!
mpirun_test::run 4 form >"$work/b.log" 2>&1 || mpirun_test::fail "four ranks did not form"
wait "$first" || mpirun_test::fail "three ranks did not form"
[[ $(grep -c formed "$work/a.log") == 3 ]] || mpirun_test::fail "expected 3 formed ranks in a.log"
[[ $(grep -c formed "$work/b.log") == 4 ]] || mpirun_test::fail "expected 4 formed ranks in b.log"

mpirun_test::run 3 wait 40 >"$work/c.log" 2>&1 &
third=$!
for _ in {1..500}; do
  [[ $(grep -sc formed "$work/c.log") == 3 ]] && break
  sleep 0.1
done
victim=$(sed -n 's/^rank 2 formed: pid \([0-9]*\),.*/\1/p' "$work/c.log")
kill -9 "$victim"
! wait "$third" || mpirun_test::fail "mpirun ended well although a rank was killed"
grep -q "rank 0 lost: rank 2 on .* (pid $victim) was lost" "$work/c.log" || mpirun_test::fail "rank 0 did not name the lost rank"
