#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every trap of docs/traps.md names a test that exists, by file and sentence.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

failed=0 traps=0
while IFS= read -r line; do
  [[ $line == '| '* && $line != '| trap |'* ]] || continue
  ((++traps))
  [[ $line =~ \|\ \`(tests/[^\`]+)\`:\ (.+)\ \|$ ]] || {
    echo "FAILED no test is named: $line"
    failed=1
    continue
  }
  file=${BASH_REMATCH[1]} sentence=${BASH_REMATCH[2]}
  tr -d '\n' <"$file" | sed -E 's/" +"//g' | grep -qF -- "$sentence" || {
    echo "FAILED $file has no test '$sentence'"
    failed=1
  }
done <docs/traps.md
((traps >= 40)) || failed=1
echo "$traps traps"
exit "$failed"
