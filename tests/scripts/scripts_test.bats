#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# The scripts of scripts/ in a copy of the tree, around pretended commands. verify-release.sh: tests/release; test-cluster.sh: tests/slurm.

setup() {
  repository=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
  tree=$BATS_TEST_TMPDIR/tree bin=$BATS_TEST_TMPDIR/bin
  mkdir -p "$tree/tests/fuzz" "$tree/tests/clients" "$bin"
  cp -r "$repository/scripts" "$repository/deps.lock" "$tree/"
  cp "$repository/tests/fuzz/CMakeLists.txt" "$tree/tests/fuzz/"
  cp "$repository/tests/clients/requirements.txt" "$tree/tests/clients/"
  unset SLUICE_BINARY DEPS_MIRROR
}

# pretend NAME [LINE]: a command that says how it was called.
pretend() {
  printf '#!/bin/bash\necho "%s $*"\n%s\n' "$1" "${2:-}" >"$bin/$1"
  chmod +x "$bin/$1"
}
# alone SCRIPT ARGUMENT...: with the pretended commands and the system's tools, without dpkg, compilers and CUDA.
alone() {
  local name
  for name in bash env basename cat cmp cp cut dirname grep hostname ls mkdir mktemp mv nproc paste printf realpath rm sed sha256sum sleep tr xargs; do
    [[ -e $bin/$name ]] || ln -s "$(command -v "$name")" "$bin/$name"
  done
  run env -i "PATH=$bin" CUDA_HOME=/nowhere "HOME=$BATS_TEST_TMPDIR" "${@:2}" "$tree/scripts/$1"
}
# refused CODE TEXT COMMAND...
refused() {
  run "${@:3}"
  [[ $status == "$1" && $output == *"$2"* ]] || { echo "$status: $output" && return 1; }
}
says() { [[ $status == "$1" && $output == *"$2"* ]] || { echo "$status: $output" && return 1; }; }

@test "arguments that a script does not know are refused with what it takes" {
  refused 1 "takes no arguments, found '--help'" "$tree/scripts/client-env.sh" --help
  refused 1 "takes no arguments, found '--help'" "$tree/scripts/quickstart.sh" --help
  refused 1 "usage: deps.sh fetch FOLDER | build PREFIX [NAME...]" "$tree/scripts/deps.sh" --help
  refused 1 "usage: fuzz.sh TARGET SECONDS; targets: " "$tree/scripts/fuzz.sh" --help
  refused 1 "expected one OUTPUT.tar.xz at most, found 'a b'" "$tree/scripts/gpu-bundle.sh" a b
  refused 1 "Usage: gpu-check.sh RELEASE [RESULTS]" "$tree/scripts/gpu-check.sh"
  refused 1 "unknown argument --help; known are --quick and --fix" "$tree/scripts/lint.sh" --help
  refused 1 "expected SEED COUNT [--slurm|--slurm-array|--service|--array], two whole numbers, found '--help'" "$tree/scripts/soak.sh" --help
  refused 1 "known are up, down, status, run COMMAND..., on NODE COMMAND..., next-job ID" "$tree/scripts/test-cluster.sh" --help
  refused 1 "unknown argument --help; known are --repair and --record" "$tree/scripts/verify-release.sh" --help
}

@test "client-env.sh leaves an environment alone that has the wanted packages" {
  mkdir -p "$tree/build/clients"
  cp "$tree/tests/clients/requirements.txt" "$tree/build/clients/"
  alone client-env.sh
  says 0 "client packages are there"
}

@test "deps.sh names the libraries, asks for a mirror and refuses an archive that is not the pinned one" {
  refused 1 "deps.lock names no boost; it names: " "$tree/scripts/deps.sh" build "$BATS_TEST_TMPDIR/prefix" boost
  refused 1 "DEPS_MIRROR is not set" "$tree/scripts/deps.sh" build "$BATS_TEST_TMPDIR/prefix" fmt
  refused 1 "holds no " env DEPS_MIRROR="$bin" "$tree/scripts/deps.sh" build "$BATS_TEST_TMPDIR/prefix" fmt
  echo other >"$bin/$(basename "$(sed -n 's/^fmt .* //p' "$tree/deps.lock")")"
  refused 1 "is not what deps.lock pins: expected sha256" env DEPS_MIRROR="$bin" "$tree/scripts/deps.sh" build "$BATS_TEST_TMPDIR/prefix" fmt
}

@test "fuzz.sh refuses an unknown target and a time that is no number before it installs anything" {
  refused 1 "there is no fuzz target nothing; targets: " "$tree/scripts/fuzz.sh" nothing 10
  refused 1 "SECONDS is 'ten', expected a whole number above 0" "$tree/scripts/fuzz.sh" json ten
  refused 1 "usage: fuzz.sh --all SECONDS" "$tree/scripts/fuzz.sh" --all
}

@test "gpu-bundle.sh without a CUDA compiler says what to load" {
  alone gpu-bundle.sh
  says 1 "no nvcc here: load a CUDA module or set CUDA_HOME"
}

@test "gpu-check.sh refuses what is no release for GPUs, and says that there is no GPU" {
  refused 1 "holds no bin/sluice" "$tree/scripts/gpu-check.sh" "$bin"
  mkdir -p "$tree/bin" "$tree/share/check" "$tree/lib/sluice"
  touch "$tree/lib/sluice/sluice_cuda.so"
  cp "$(type -P true)" "$tree/bin/sluice"
  pretend nvidia-smi "exit 9"
  refused 3 "NO GPU" env "PATH=$bin:$PATH" "$tree/scripts/gpu-check.sh" "$tree"
}

@test "gpu-check.sh reports every step, and goes on after one that fails" {
  local check=$tree/share/check results=$BATS_TEST_TMPDIR/results
  mkdir -p "$tree/bin" "$check" "$tree/lib/sluice"
  touch "$tree/lib/sluice/sluice_cuda.so" "$check/demo_prompts.jsonl"
  echo '{"index": 0, "text": "Paris"}' >"$check/demo_expected.jsonl"
  pretend nvidia-smi
  pretend compute-sanitizer
  # shellcheck disable=SC2016  # expanded in there
  pretend python3 '[[ $* != *torch* ]] || exit 1
while (($#)); do
  case $1 in --work) mkdir -p "$2/llama-3.2-1b" && touch "$2/llama-3.2-1b/config.json" ;; esac
  shift
done
echo "bf16  warm  checkpoint   0.10 s, 0.040 s per GB of the checkpoint"'
  pretend cuda_native_kernels_test 'echo "kernel 7 is wrong" >&2; exit 1'
  pretend cuda_native_test
  pretend cuda_kernels_bench
  # shellcheck disable=SC2016  # expanded in there
  pretend sluice 'verb=$1
if [[ $verb == info ]]; then echo "weights              2.472 GB as bfloat16" && exit; fi
if [[ $verb == serve ]]; then
  mkdir -p "$SLUICE_HOME/jobs"
  printf "%s\n" "{" "  \"state\": \"ready\"," "  \"port\": 3017," "}" >"$SLUICE_HOME/jobs/local-1.json"
  trap "exit 0" TERM
  while :; do sleep 0.1; done
fi
while (($#)); do
  case $1 in --output) cp "${0%/bin/*}/share/check/demo_expected.jsonl" "$2" ;; --json) printf %s "{\"of\": \"$2\"}" >"$2" ;; esac
  shift
done
[[ $verb != bench ]] || echo "decode   batch    1   244.0 tokens/s"'
  mv "$bin"/cuda_* "$check/" && mv "$bin/sluice" "$tree/bin/"
  run env "PATH=$bin:$PATH" "CHECK_SHAPES=llama-3.2-1b" "CHECK_MEMORY=$BATS_TEST_TMPDIR" "$tree/scripts/gpu-check.sh" "$tree" "$results"
  says 1 "kernel 7 is wrong"
  local line
  for line in "native-kernels  *failed" "native-tests  *passed" "memcheck-kernels  *passed" "racecheck  *passed" "demo  *passed" "demo-deterministic  *passed" \
    "bench-llama-3.2-1b  *passed" "bench-deterministic  *passed" "load  *passed" "serve  *passed" "0.040 s per GB" "decode   batch    1   244.0 tokens/s"; do
    grep -q "$line" "$results/report.txt" || { cat "$results/report.txt" && return 1; }
  done
  [[ $output == *"SKIPPED: transformers: python3 here has no torch"* ]]
  grep -q "bench serve --url http://localhost:3017 .*--prompt-size 550" "$results/serve.log"
  [[ -z $(compgen -G "$BATS_TEST_TMPDIR/sluice-gpu-check-*") ]]
  run env "PATH=$bin:$PATH" "CHECK_SHAPES=llama-3.2-1b" "CHECK_ONLY=demo bench-llama*" "$tree/scripts/gpu-check.sh" "$tree" "$results.few"
  says 0 "bench-llama-3.2-1b"
  [[ $(grep -cE "passed|failed" "$results.few/report.txt") == 2 ]]
  python3 - "$results/report.json" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
verdicts = {step["name"]: step["verdict"] for step in report["steps"]}
assert verdicts["native-kernels"] == "failed" and verdicts["demo"] == "passed", verdicts
assert len(report["bench"]) == 2, report["bench"]
PYTHON
}

@test "packages are installed where some are missing, and left to the site where there is no dpkg" {
  pretend dpkg-query 'exit 1'
  pretend apt-get
  # shellcheck disable=SC2016  # expanded in there
  run env "PATH=$bin:$PATH" bash -c 'source "$0/scripts/lib.sh" && common::install one two' "$tree"
  if ((EUID == 0)); then says 0 "installing 2 packages: one two"; else says 1 "Ask an administrator for: apt-get install one two"; fi
  rm "$bin"/*
  alone quickstart.sh
  [[ $output == *"this is no Debian system: relying on modules or system copies of: g++ cmake"* ]]
}

@test "quickstart.sh shows why configuring failed" {
  pretend cmake 'echo "no libraries"; exit 1'
  alone quickstart.sh
  says 1 "configuring failed; the log above says what is missing"
  [[ $output == *"no libraries"* && ! -e $tree/build-configure.log ]]
}

@test "soak.sh without a program says how to build it" {
  refused 1 "build/cpu/sluice is not built; run cmake --preset cpu" "$tree/scripts/soak.sh" 1 1
  refused 1 "expected SEED COUNT" "$tree/scripts/soak.sh" 1 0 --array
  refused 1 "expected SEED COUNT" "$tree/scripts/soak.sh" 1 1 --cluster
}

@test "test.sh lints, builds and hands its arguments to ctest" {
  local name
  for name in lint client-env; do printf '#!/bin/bash\necho "%s $*"\n' "$name" >"$tree/scripts/$name.sh"; done
  pretend cmake
  pretend ctest
  alone test.sh
  says 0 "ctest --preset cpu -j 2"
  [[ $output == *"lint --quick"*"cmake --build --preset cpu"*"NO NVCC"* ]]
  run env -i "PATH=$bin" CUDA_HOME=/nowhere "$tree/scripts/test.sh" -L unit
  says 0 "ctest --preset cpu -j 2 -L unit"
}

@test "every script of scripts, slurm and env has a test that names it" {
  local script name
  cd "$repository"
  for script in scripts/*.sh slurm/*.sh env/*.sh; do
    name=${script##*/}
    grep -qF -e "$name" -e " ${name%.sh}" tests/scripts/*.bats tests/slurm/script_test.sh tests/release/*_test.sh || { echo "no test names $script" && return 1; }
  done
}
