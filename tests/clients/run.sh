#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Starts a server with a model, runs one client script against it, stops it. Answers 77 where the clients are missing.
# Usage: run.sh BUILD_DIR MODEL SCRIPT
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly build="$1" model="$2" script="$3"
readonly python="$here/../../build/clients/bin/python"
if ! cmp -s "$here/requirements.txt" "$here/../../build/clients/requirements.txt"; then
  echo "SKIPPED: no client packages; run scripts/client-env.sh"
  exit 77
fi
work="$(mktemp -d)"
readonly work
server=0
# shellcheck disable=SC2329  # called by the trap
stop() {
  if ((server)); then
    kill "$server" 2>/dev/null || true
    wait "$server" || true
  fi
  rm -rf "$work"
}
trap stop EXIT

export SLUICE_HOME="$work/home" SLUICE_THREADS=1
# shellcheck disable=SC2046  # one -u per variable
env $(compgen -e | sed -n 's/^\(SLURM_[A-Z0-9_]*\|PMI[A-Z0-9_]*\|OMPI_[A-Z0-9_]*\)$/-u \1/p') \
  "$build/sluice" serve --model "$model" --host 127.0.0.1 >"$work/log" 2>&1 &
server=$!
record=""
for _ in $(seq 1200); do
  record="$(find "$work/home" -name '*.json' -exec grep -l '"ready"' {} + 2>/dev/null | head -1 || true)"
  [[ -n $record ]] && break
  kill -0 "$server" 2>/dev/null || {
    cat "$work/log"
    exit 1
  }
  sleep 0.2
done
[[ -n $record ]] || {
  echo "the server was not ready within 240 s"
  cat "$work/log"
  exit 1
}
export SLUICE_BINARY="$build/sluice" SLUICE_TEST_MODEL="$model"
if ! timeout 800 "$python" "$here/$script" "$record"; then
  kill -0 "$server" 2>/dev/null || echo "the server ended before the clients did"
  tail -20 "$work/log"
  exit 1
fi
