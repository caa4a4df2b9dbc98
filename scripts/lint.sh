#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formatting and static checks. --quick leaves out clang-tidy; --fix rewrites files.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(common::root)"

quick=false fix=false
for argument in "$@"; do
  case $argument in
  --quick) quick=true ;;
  --fix) fix=true ;;
  *) common::err "unknown argument $argument; known are --quick and --fix" ;;
  esac
done

mapfile -t scripts < <(git ls-files '*.sh' '*.bats' .ci/run)
mapfile -t sources < <(git ls-files 'src/*.h' 'src/*.cpp' 'kernels/*.h' 'kernels/*.cu' 'tests/*.h' 'tests/*.cpp')

if $fix; then
  shfmt -i 2 -w "${scripts[@]}"
  command -v clang-format >/dev/null && clang-format -i "${sources[@]}"
fi

shellcheck -x -P SCRIPTDIR -P scripts "${scripts[@]}"
shfmt -i 2 -d "${scripts[@]}"
if command -v clang-format >/dev/null; then
  clang-format --dry-run -Werror "${sources[@]}"
else
  common::log "SKIPPED: clang-format is not installed"
fi
if ! $quick; then
  if command -v clang-tidy >/dev/null; then
    [[ -f build/cpu/compile_commands.json ]] || cmake --preset cpu >/dev/null
    # Headers are seen through the sources that include them; a file takes a few seconds.
    git ls-files 'src/*.cpp' | xargs -P "$(nproc)" -n 4 clang-tidy -p build/cpu --quiet --warnings-as-errors='*' 2>/dev/null
  else
    common::log "SKIPPED: clang-tidy is not installed"
  fi
fi
common::log "lint: clean"
