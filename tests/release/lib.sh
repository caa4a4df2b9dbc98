# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
# Shared by the tests of this folder: a working folder that vanishes, checks that end the test, a count at the end.
set -uo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/sluice-release-XXXXXX")
log=$work/log
passed=0
trap 'rm -rf "$work"' EXIT

fail() {
  printf 'FAILED %s\n' "$*"
  [[ ! -s $log ]] || sed 's/^/    | /' "$log"
  exit 1
}
ok() {
  ((++passed))
  printf 'ok    %s\n' "$1"
}
# runs CODE COMMAND...: its output goes to $log, its exit code is CODE.
runs() {
  local expected=$1 code
  shift
  "$@" >"$log" 2>&1
  code=$?
  ((code == expected)) || fail "expected exit code $expected, found $code: $*"
}
says() { grep -qF -- "$1" "$log" || fail "expected the output to say: $1"; }
done_testing() {
  ((passed > 0)) || fail "nothing was tested"
  printf '%d passed\n' "$passed"
}
