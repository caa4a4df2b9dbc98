#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh clone to answered questions: installs what is missing, builds the cpu preset, asks the demo model.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(common::root)"

(($# == 0)) || common::err "quickstart.sh takes no arguments, found '$*'"
common::install "${SLUICE_BUILD_PACKAGES[@]}"
common::log "building (build/cpu)"
cmake --preset cpu -DSLUICE_TESTS="${SLUICE_TESTS:-OFF}" >build-configure.log 2>&1 || {
  cat build-configure.log
  rm build-configure.log
  common::err "configuring failed; the log above says what is missing"
}
rm -f build-configure.log
cmake --build --preset cpu --target sluice sluice_mpi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/questions.jsonl" <<'Q'
{"messages": [{"role": "user", "content": "What is the capital of France?"}]}
{"messages": [{"role": "user", "content": "What is 7 plus 5?"}]}
{"messages": [{"role": "user", "content": "What is the opposite of hot?"}]}
{"messages": [{"role": "user", "content": "Which day comes after Monday?"}]}
{"messages": [{"role": "user", "content": "Spell the word cat."}]}
Q
common::log "asking the demo model five questions"
build/cpu/sluice generate --model tests/models/demo --prompts "$work/questions.jsonl" --output "$work/answers.jsonl" --max-new-tokens 40 --log-level warning
paste -d '\n' <(sed -E 's/.*"content": "([^"]*)".*/  Q: \1/' "$work/questions.jsonl") \
  <(sed -E 's/.*"text":"([^"]*)".*/  A: \1/' "$work/answers.jsonl")

cat <<'NEXT'

Next:
  build/cpu/sluice chat tests/models/demo                              talk to it here
  bash slurm/serve.sh                                                  serve it on this machine (MODEL_ID=... for another)
  sbatch --export=ALL,MODEL_ID=tests/models/demo slurm/serve.sh        serve it from a Slurm job
  build/cpu/sluice info                                                every setting, its value and where it came from
  ./scripts/test.sh                                                    run the tests
NEXT
