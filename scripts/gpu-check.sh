#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks and measures a release on the GPU of this machine: kernels and backend natively, under compute-sanitizer where that
# works, the demo model's answers against the committed ones, and sluice bench.
# Usage: gpu-check.sh RELEASE [RESULTS]   RELEASE: a folder unpacked from gpu-bundle.sh; RESULTS: a folder, default ./gpu-check
# Writes RESULTS/report.json and RESULTS/report.txt. Exit code 0: all that could run was right; 1: something failed; 3: no GPU.
# CHECK_SHAPES ("llama-3-8b llama-3.2-1b") names the models that are measured; CHECK_QUICK=1 leaves the measuring out; CHECK_ONLY
# ("bench-* load") names the steps that run, for machines that are lent for minutes. CHECK_MEMORY (/dev/shm) is a folder in
# memory, for a checkpoint of the first shape.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

(($# >= 1 && $# <= 2)) || common::err "which release? Usage: gpu-check.sh RELEASE [RESULTS]"
release=$(realpath "$1")
[[ -x $release/bin/sluice ]] || common::err "$release holds no bin/sluice: expected a folder unpacked from gpu-bundle.sh"
check=$release/share/check sluice=$release/bin/sluice
[[ -d $check ]] || common::err "$release holds no share/check: expected a folder unpacked from gpu-bundle.sh"
[[ -f $release/lib/sluice/sluice_cuda.so ]] || common::err "$release holds no lib/sluice/sluice_cuda.so: it was built without CUDA"

if ! gpus=$(nvidia-smi -L 2>/dev/null) || [[ -z $gpus ]]; then
  printf 'NO GPU: nvidia-smi finds none on %s, so nothing was checked and nothing was measured.\n' "$(hostname)" >&2
  exit 3
fi
mkdir -p "${2:-gpu-check}"
results=$(realpath "${2:-gpu-check}")
device=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader -i 0)

steps=() failed=0
read -ra only <<<"${CHECK_ONLY:-*}"
# gpu_check::wanted NAME: CHECK_ONLY has a pattern that fits.
gpu_check::wanted() {
  local pattern
  # shellcheck disable=SC2053  # a pattern it is
  for pattern in "${only[@]}"; do [[ $1 != $pattern ]] || return 0; done
  return 1
}
# gpu_check::step NAME COMMAND...: runs it, keeps its output in RESULTS/NAME.log and its verdict for the report.
gpu_check::step() {
  local name=$1 start=$SECONDS verdict=passed
  gpu_check::wanted "$name" || return 0
  shift
  common::log "$name"
  if ! "$@" >"$results/$name.log" 2>&1; then
    verdict=failed failed=1
    tail -n 20 "$results/$name.log" >&2
  fi
  steps+=("$name $verdict $((SECONDS - start))")
  common::log "$name: $verdict"
}
gpu_check::skip() {
  gpu_check::wanted "$1" || return 0
  steps+=("$1 skipped 0")
  common::log "SKIPPED: $1: $2"
}

# shellcheck disable=SC2317  # called through gpu_check::step
gpu_check::demo() {
  rm -f "$results"/demo.jsonl*
  "$sluice" generate --device cuda --dtype float32 --model "$check/demo" --prompts "$check/demo_prompts.jsonl" \
    --output "$results/demo.jsonl" --max-new-tokens 200 "$@"
  cmp "$results/demo.jsonl" "$check/demo_expected.jsonl"
}
# shellcheck disable=SC2317
gpu_check::bench() {
  "$sluice" bench --device cuda --random-init "$1" --dtype bfloat16 --batch 1,8,64,256 --prefill 550,2048 --context 600 \
    --max-batch-prefill-tokens 2048 --json "$results/bench-$1.json" "${@:2}"
}

# From memory to the GPU: the median of three loads of a checkpoint in $memory.
# shellcheck disable=SC2317
gpu_check::load() {
  python3 "$check/load_time.py" --sluice "$sluice" --shape "$1" --schemes bf16 --forms checkpoint --states warm --device cuda \
    --work "$memory" --json "$results/load.json"
}
# That checkpoint over HTTP: a prompt of 550 tokens to its first token, and 64 streams.
# shellcheck disable=SC2317
gpu_check::serve() {
  local home=$results/home record="" server
  rm -rf "$home"
  SLUICE_HOME=$home "$sluice" serve --model "$memory/$1" --device cuda --auth none --host 127.0.0.1 --max-batch-size 64 \
    --max-batch-prefill-tokens 2048 --prefix-cache false &
  server=$!
  until record=$(grep -l '"state": "ready"' "$home"/jobs/*.json 2>/dev/null); do
    kill -0 "$server" 2>/dev/null || return 1
    sleep 0.5
  done
  local bench=("$sluice" bench serve --url "http://localhost:$(sed -nE 's/^ *"port": ([0-9]+),?$/\1/p' "$record")" --api tgi --max-tokens 100) status=0
  "${bench[@]}" --prompt-size 550 --concurrency 1 --seconds 10 --json "$results/first-token.json" || status=1
  "${bench[@]}" --prompt-words 100 --concurrency 64 --seconds 10 --json "$results/streams.json" || status=1
  kill "$server" && wait "$server" || status=1
  return "$status"
}

gpu_check::step native-kernels "$check/cuda_native_kernels_test"
gpu_check::step native-tests "$check/cuda_native_test"
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [[ -z $sanitizer ]]; then
  gpu_check::skip memcheck "compute-sanitizer is not installed"
elif ! "$sanitizer" --tool memcheck --error-exitcode 9 "$check/cuda_native_test" -tc="the backend names*" >"$results/sanitizer.log" 2>&1; then
  gpu_check::skip memcheck "compute-sanitizer does not work here, see sanitizer.log"
else
  gpu_check::step memcheck-kernels "$sanitizer" --tool memcheck --error-exitcode 9 "$check/cuda_native_kernels_test"
  gpu_check::step racecheck-kernels "$sanitizer" --tool racecheck --error-exitcode 9 "$check/cuda_native_kernels_test"
  gpu_check::step memcheck "$sanitizer" --tool memcheck --error-exitcode 9 "$check/cuda_native_test"
  gpu_check::step racecheck "$sanitizer" --tool racecheck --error-exitcode 9 "$check/cuda_native_test" -tce="memory comes*"
fi
gpu_check::step demo gpu_check::demo
gpu_check::step demo-deterministic gpu_check::demo --deterministic true
if [[ ${CHECK_QUICK:-0} == 1 ]]; then
  gpu_check::skip bench "CHECK_QUICK=1"
else
  gpu_check::step kernels "$check/cuda_kernels_bench" --json "$results/kernels.json"
  for shape in ${CHECK_SHAPES:-llama-3-8b llama-3.2-1b}; do
    gpu_check::step "bench-$shape" gpu_check::bench "$shape"
  done
  shape=${CHECK_SHAPES:-llama-3-8b}
  shape=${shape%% *}
  free_gb=$(($(df --output=avail -k "${CHECK_MEMORY:-/dev/shm}" | tail -n 1) / 1000000))
  weights_gb=$("$sluice" info --random-init "$shape" | sed -nE 's/^weights +([0-9]+)\..*/\1/p')
  if ! python3 -c "" 2>/dev/null; then
    gpu_check::skip load "there is no python3"
  elif ((free_gb < weights_gb + 2)); then
    gpu_check::skip load "${CHECK_MEMORY:-/dev/shm} has $free_gb GB free, expected $((weights_gb + 2)) for a checkpoint of $shape"
  else
    memory=$(mktemp -d "${CHECK_MEMORY:-/dev/shm}/sluice-gpu-check-XXXXXX")
    trap 'rm -rf "$memory"' EXIT
    gpu_check::step load gpu_check::load "$shape"
    [[ ! -f $memory/$shape/config.json ]] || gpu_check::step serve gpu_check::serve "$shape"
    rm -rf "$memory"
  fi
  # Beside transformers, where this machine has it.
  if python3 -c "import torch, transformers" 2>/dev/null; then
    for shape in ${CHECK_SHAPES:-llama-3-8b llama-3.2-1b}; do
      gpu_check::step "transformers-$shape" python3 "$check/python_peers.py" --sluice "$sluice" --peers transformers --device cuda --shape "$shape" \
        --batches 1 8 64 --prefill 2048 --work "$results" --json "$results/transformers-$shape.json"
    done
  else
    gpu_check::skip transformers "python3 here has no torch and transformers"
  fi
  # What --deterministic costs.
  mkdir -p "$results/deterministic"
  gpu_check::step "bench-deterministic" "$sluice" bench --device cuda --deterministic true --random-init "$shape" --dtype bfloat16 \
    --batch 1,64 --prefill 2048 --context 600 --max-batch-prefill-tokens 2048 \
    --json "$results/deterministic/bench-$shape.json"
fi

{
  printf '{"host": "%s", "device": "%s", "date": "%s",\n "steps": [' "$(hostname)" "$device" "$(date -u +%FT%TZ)"
  separator=""
  for step in "${steps[@]}"; do
    read -r name verdict seconds <<<"$step"
    printf '%s\n  {"name": "%s", "verdict": "%s", "seconds": %d}' "$separator" "$name" "$verdict" "$seconds"
    separator=,
  done
  printf '\n ],\n "bench": ['
  separator=""
  for file in "$results"/bench-*.json "$results"/deterministic/bench-*.json; do
    [[ -f $file ]] || continue
    printf '%s\n' "$separator"
    cat "$file"
    separator=,
  done
  printf ' ]}\n'
} >"$results/report.json"
{
  printf 'Sluice %s on %s, %s\n\n' "$(cat "$release/VERSION" 2>/dev/null || echo unknown)" "$(hostname)" "$device"
  for step in "${steps[@]}"; do
    read -r name verdict seconds <<<"$step"
    printf '%-24s %-8s %4d s\n' "$name" "$verdict" "$seconds"
  done
  if [[ -f $results/kernels.log ]]; then
    printf '\nkernels\n'
    cat "$results/kernels.log"
  fi
  for log in "$results"/bench-*.log "$results"/{load,serve}.log "$results"/transformers-*.log; do
    [[ -f $log ]] || continue
    printf '\n%s\n' "$(basename "$log" .log)"
    grep -E '^(.* \(.* GB\), |decode|prefill|limits|bf16|requests|time to first|tokens)' "$log" || true
  done
} >"$results/report.txt"
cat "$results/report.txt"
exit "$failed"
