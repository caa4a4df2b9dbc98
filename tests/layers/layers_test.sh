#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A room includes only rooms of a lower level (docs/layers.txt); no header includes a heavy third-party header; no source
# file outgrows 500 lines, and the tracked files not 20 MB. A planted violation proves that the check can fail.
set -euo pipefail

# layers::check ROOT: prints one line per violation.
layers::check() (
  cd "$1"
  mapfile -t sources < <(find src -name '*.h' -o -name '*.cpp' | sort)
  awk '
    FNR == NR { if ($1 !~ /^#/ && NF == 2) level[$2] = $1; next }
    FNR == 1 { split(FILENAME, part, "/"); room = part[2] }
    /^#include "/ {
      split($2, quoted, "\""); split(quoted[2], target, "/")
      if (!(room in level)) { print FILENAME ": room " room " is not in docs/layers.txt"; nextfile }
      if (!(target[1] in level)) { print FILENAME ":" FNR ": includes \"" quoted[2] "\", which is in no room"; next }
      if (target[1] != room && level[target[1]] >= level[room])
        print FILENAME ":" FNR ": " room " (level " level[room] ") includes " target[1] " (level " level[target[1]] ")"
    }
  ' docs/layers.txt "${sources[@]}"
  find src -name '*.h' -print0 | xargs -0 -r grep -nE '#include <(nlohmann/json.hpp|httplib.h|CLI/|spdlog/|oneapi/|hwy/|oniguruma.h|prometheus/|curl/|mpi.h|doctest)' |
    grep -vE '^src/(backend/cpu|comm/mpi)/' | sed 's/$/ (third-party headers belong in .cpp files)/' || true
  { find src kernels tests \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 2>/dev/null || true; } | xargs -0 -r wc -l |
    awk '$2 != "total" && $1 > 500 { print $2 ": " $1 " lines, the ceiling is 500" }'
)

# layers::size ROOT: bytes of the tracked files, where ROOT is a checkout.
layers::size() (
  cd "$1"
  git ls-files -z | xargs -0 stat -c %s | awk '{ sum += $1 } END { print sum }'
)

root=$1
found=$(layers::check "$root")
if [[ -n "$found" ]]; then
  printf 'layering violations:\n%s\n' "$found"
  exit 1
fi

planted=$(mktemp -d)
trap 'rm -rf "$planted"' EXIT
mkdir -p "$planted/docs" "$planted/src/base" "$planted/src/engine"
cp "$root/docs/layers.txt" "$planted/docs/"
printf '#include "engine/engine.h"\n' >"$planted/src/base/bad.h"
printf '#include "base/bad.h"\n' >"$planted/src/engine/good.h"
[[ $(layers::check "$planted" | wc -l) -eq 1 ]] || {
  echo "the planted upward include was not reported exactly once"
  exit 1
}
if [[ -e "$root/.git" ]] && command -v git >/dev/null; then
  size=$(layers::size "$root")
  ((size > 1000000 && size < 20000000)) || {
    echo "the tracked files hold $size bytes, the ceiling is 20000000: shrink goldens through their generators"
    exit 1
  }
fi
echo "layers: no violation"
