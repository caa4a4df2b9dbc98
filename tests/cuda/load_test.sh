#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The module that nvcc built is one that the binary opens: with a GPU it computes there, without one it says why not.
# Usage: load_test.sh SLUICE MODULE DEMO_MODEL
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export SLUICE_HOME=$folder SLUICE_CUDA_MODULE=$2
printf '{"prompt": "Once", "max_tokens": 2}\n' >"$folder/in.jsonl"
status=0
"$1" generate --device cuda --model "$3" --prompts "$folder/in.jsonl" --output "$folder/out.jsonl" 2>"$folder/log" || status=$?
if nvidia-smi -L >/dev/null 2>&1; then
  ((status == 0)) || {
    cat "$folder/log"
    echo "the module failed on this machine's GPU"
    exit 1
  }
  echo "the module computes on this machine's GPU"
elif ((status == 2)) && grep -Eq 'cuda was asked for\. (CUDA does not start|no GPU is visible)' "$folder/log"; then
  echo "the module loads, and says that there is no GPU: $(tail -n 1 "$folder/log")"
else
  cat "$folder/log"
  echo "expected exit code 2 and the reason, found exit code $status"
  exit 1
fi
