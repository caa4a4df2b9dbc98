# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Offline generation in jobs that are killed, preempted and run again: every prompt gets exactly one answer.
export SLUICE_HOME=$work/home MODEL_ID=${SLUICE_TEST_MODEL:-$repository/tests/models/demo} SLUICE_THREADS=1 MAX_NEW_TOKENS=60 MAX_BATCH_SIZE=8
export SLURM_CONF=/tmp/sluice-test-cluster/etc/slurm.conf PROMPTS=$work/prompts.jsonl
unset RELEASE_DIR
readonly prompts=3000
for ((i = 0; i < prompts; i++)); do printf '{"prompt":"What is %d plus %d?"}\n' $((i % 37)) $((i % 23)); done >"$PROMPTS"

# Line k carries index k, and nothing is there twice.
complete() {
  [[ -f $OUTPUT ]] || fail "no output" "$log"
  [[ $(wc -l <"$OUTPUT") == "$prompts" ]] || fail "expected $prompts lines, found $(wc -l <"$OUTPUT")" "$log"
  diff <(sed -E 's/^\{"index":([0-9]+),.*/\1/' "$OUTPUT") <(seq 0 $((prompts - 1))) >"$work/diff" || fail "the order is wrong" "$work/diff"
  lacks "$OUTPUT" '"error"'
}
journal_has() { (($(wc -l <"$OUTPUT.journal") > $1)); }

uninterrupted() {
  OUTPUT=$work/reference.jsonl
  export OUTPUT
  submit "$log" -W -n1 "$repository/slurm/generate.sh" >/dev/null || fail "the job failed" "$log"
  complete
}
it "a job answers every prompt once and in order" uninterrupted

killed() {
  local job
  OUTPUT=$work/killed.jsonl
  export OUTPUT
  job=$(submit "$log" -n1 "$repository/slurm/generate.sh")
  wait_for 90 journal_has 100 || fail "nothing was written" "$log"
  slurm scancel --signal=KILL "$job"
  wait_for 60 job_gone "$job" || fail "the job still runs" "$log"
  [[ ! -f $OUTPUT ]] || fail "it was complete before it was killed: the test proves nothing"
  submit "$log" -W -n1 "$repository/slurm/generate.sh" >/dev/null || fail "the second job failed" "$log"
  complete
  cmp "$OUTPUT" "$work/reference.jsonl" || fail "the answers differ from an uninterrupted run"
}
it "a killed job completes when it is run again, with the same answers" killed

terminated() {
  local job
  OUTPUT=$work/terminated.jsonl
  export OUTPUT
  job=$(submit "$log" -N2 -n2 "$repository/slurm/generate.sh")
  wait_for 90 journal_has 100 || fail "nothing was written" "$log"
  slurm scancel --batch --signal=TERM "$job"
  wait_for 240 test -f "$OUTPUT" || fail "the job did not come back and finish: $(job_state "$job")" "$log"
  complete
  has "$log" 'back into the queue: prompts are left'
  cmp "$OUTPUT" "$work/reference.jsonl" || fail "the answers differ from an uninterrupted run"
}
it "a job near its time limit goes back into the queue and completes" terminated

preempted() {
  local job
  OUTPUT=$work/preempted.jsonl
  export OUTPUT
  job=$(submit "$log" -N2 -n2 -c8 "$repository/slurm/generate.sh")
  wait_for 90 journal_has 100 || fail "nothing was written" "$log"
  slurm srun -p high -N2 -n2 -c8 sleep 3 || fail "the preemptor did not run" "$log"
  wait_for 240 test -f "$OUTPUT" || fail "the job did not come back and finish: $(job_state "$job")" "$log"
  complete
}
it "a preempted job comes back and completes" preempted

shared_has() { (($(cat "$OUTPUT".shared/journals/* 2>/dev/null | wc -l) > $1)); }
arrayed() {
  local job task victim
  OUTPUT=$work/array.jsonl
  export OUTPUT
  job=$(submit "$log" --array=0-3 -n1 "$repository/slurm/generate.sh")
  wait_for 90 shared_has 200 || fail "nothing was written" "$log"
  victim=$(ranks_on n1 | tail -n 1)
  [[ -n $victim ]] || fail "no task on n1" "$log"
  kill -KILL "$victim"
  slurm scontrol requeue "${job}_1" || fail "a running task could not be requeued" "$log"
  [[ ! -f $OUTPUT ]] || fail "it was complete before it was disturbed: the test proves nothing"
  wait_for 240 test -f "$OUTPUT" || fail "the array did not finish" "$log"
  complete
  cmp "$OUTPUT" "$work/reference.jsonl" || fail "the answers differ from an uninterrupted run"
  wait_for 60 queue_empty || fail "a task did not end" "$log"
  [[ ! -d $OUTPUT.shared ]] || fail "the shared folder was left behind"
  has "$log" 'taking over from'
  grep -q '"state":"complete"' "$SLUICE_HOME"/jobs/*.progress || fail "no progress was recorded"
  # One that has told of its progress: the one that was killed may not have come to it.
  task=$(sed -n "s/.*\"task\":\"\(${job}_[0-9]*\)\".*/\\1/p" "$SLUICE_HOME"/jobs/*.progress | head -n 1)
  slurm "$build/sluice" status "$task" >"$work/status" || [[ $? == 1 ]] || fail "an ended task is not found" "$work/status"
  has "$work/status" "($task)"
  slurm "$build/sluice" logs "$task" >"$work/status" || fail "an ended task's log is not found" "$work/status"
  slurm "$build/sluice" stop "$task" >"$work/status" || fail "an ended task cannot be stopped twice" "$work/status"
  has "$work/status" 'has ended already'
}
it "tasks of an array share a file, and one that is killed or requeued loses nothing" arrayed
