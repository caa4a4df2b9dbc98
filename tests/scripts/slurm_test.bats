#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# The functions of slurm/common.sh one by one. container.sh and the scripts as a whole:
# tests/slurm/script_test.sh; compile.sh and env: tests/release.

setup() {
  root=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
  bin=$BATS_TEST_TMPDIR/bin
  mkdir "$bin"
  # shellcheck source=slurm/common.sh
  source "$root/slurm/common.sh"
  unset SLURM_ARRAY_TASK_ID SLURM_ARRAY_JOB_ID RELEASE_DIR
  SLURM_JOB_ID=77
}
# pretend NAME LINE...
pretend() {
  printf '%s\n' '#!/bin/bash' "${@:2}" >"$bin/$1"
  chmod +x "$bin/$1"
  PATH=$bin:$PATH
}

@test "a job script that finds no tree says where to submit from" {
  local script
  cd "$BATS_TEST_TMPDIR"
  for script in serve generate download compile; do
    cp "$root/slurm/$script.sh" slurm_script
    run env -u SLURM_SUBMIT_DIR SLURM_JOB_ID=77 bash slurm_script
    [[ $status == 2 && $output == *"slurm/common.sh not found; submit from the source tree"* ]]
  done
}

@test "requests for GPUs are counted, typed or not" {
  [[ $(job::count 2) == 2 && $(job::count a100:2) == 2 && $(job::count a100:1,h100:3) == 4 && $(job::count "") == 0 ]]
}

@test "a job has the name that scontrol and squeue take" {
  [[ $(job::id) == 77 ]]
  SLURM_ARRAY_JOB_ID=70 SLURM_ARRAY_TASK_ID=3
  [[ $(job::id) == 70_3 ]]
}

@test "what a stripped environment lacks is given back" {
  run env -i PATH=/opt/x "$(command -v bash)" -c "source $root/slurm/common.sh && job::repair && echo \"\$PATH \$HOME \$USER \$SLURM_EXPORT_ENV\""
  [[ $output == "/opt/x:/usr/local/bin:/usr/bin:/bin "?*" "?*" ALL" ]]
}

@test "a job is requeued while it runs, not when it is cancelled, and not without end" {
  pretend scontrol 'echo "scontrol $*"; exit 1'
  pretend squeue 'echo RUNNING'
  run job::requeue "prompts are left"
  [[ $status == 1 && $output == *"back into the queue: prompts are left"*"scontrol requeue 77" ]]
  SLURM_RESTART_COUNT=50
  run job::requeue "prompts are left"
  [[ $status == 1 && $output == *"not requeued: restarted 50 times already (MAX_RESTARTS)" ]]
  pretend squeue 'echo COMPLETING'
  run job::requeue "prompts are left"
  [[ $status == 1 && -z $output ]]
}

# srun that hears of no rank's end: its node's part of the step was there once.
lost_word() {
  pretend sleep 'exec /bin/sleep 0.05'
  pretend pgrep "echo \"\$*\" >>$BATS_TEST_TMPDIR/asked; (( \$(wc -l <$BATS_TEST_TMPDIR/asked) $1 ))"
  pretend srun "$2" 'while :; do /bin/sleep 0.05; done'
  options=()
}

@test "srun that waits for a rank whose end it never heard of is ended" {
  lost_word "< 3" 'trap "exit 3" TERM'
  run job::step sluice
  [[ $status == 3 && $output == *"the ranks here ended 45 s ago"* ]]
  grep -qx -- '-f ^slurmstepd: \\\[77\\.\[0-9\]' "$BATS_TEST_TMPDIR/asked"
  (($(wc -l <"$BATS_TEST_TMPDIR/asked") >= 11)) # more while srun ends
}

@test "srun that does not end by itself then is killed" {
  lost_word "< 2" 'trap "" TERM'
  run job::step sluice
  [[ $status == 137 ]]
}

@test "srun is let wait where this node shows no part of the step" {
  lost_word "< 0" 'for ((i = 0; i < 20; i++)); do /bin/sleep 0.05; done; exit 0'
  run job::step sluice
  [[ $status == 0 && -z $output ]]
}
