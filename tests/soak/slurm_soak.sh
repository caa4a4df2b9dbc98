# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# One random disturbance of a generation job per seed, on the two-node cluster; read by tests/slurm/run.sh for scripts/soak.sh --slurm.
readonly prompts=2000
export PROMPTS=$work/prompts.jsonl
for ((i = 0; i < prompts; i++)); do printf '{"prompt":"What is %d plus %d?"}\n' $((i % 37)) $((i % 23)); done >"$PROMPTS"

# shellcheck source-path=SCRIPTDIR
source "$repository/tests/soak/slurm_generation.sh"

journal_has() { (($(wc -l <"$OUTPUT.journal") > $1)); }

disturb() {
  local kind=$1 ranks=$2 moment=$3 pids job attempt cpus=1
  export OUTPUT=$work/out.$4.jsonl
  [[ $kind != preempt ]] || cpus=4
  job=$(submit "$log" -N2 -n"$ranks" -c"$cpus" "$repository/slurm/generate.sh")
  wait_for 90 journal_has "$moment" || fail "nothing was written" "$log"
  case $kind in
  kill)
    mapfile -t pids < <(ranks_on n1 n2)
    ((${#pids[@]} > 0)) || fail "no rank is running" "$log"
    kill -KILL "${pids[RANDOM % ${#pids[@]}]}"
    ;;
  requeue) slurm scancel --batch --signal=TERM "$job" ;;
  cancel) slurm scancel --signal=KILL "$job" ;;
  preempt) slurm srun -p high -N2 -n2 -c8 sleep 2 || fail "the preemptor did not run" "$log" ;;
  cut)
    ip link set sluice-v2 down
    sleep 12
    ip link set sluice-v2 up
    ;;
  esac
  # A requeued job completes; after the others the same command is given again.
  if [[ $kind != requeue && $kind != preempt ]]; then
    wait_for 60 job_gone "$job" || slurm scancel "$job"
    wait_for "$silent" job_gone "$job" || fail "the job still runs" "$log"
    for attempt in 1 2; do
      [[ -f $OUTPUT ]] || submit "$log.$attempt" -W -n1 "$repository/slurm/generate.sh" >/dev/null
    done
  fi
  wait_for 180 test -f "$OUTPUT" || fail "it did not complete: $(job_state "$job")" "$log"
  cmp "$OUTPUT" "$work/reference.jsonl" || fail "the answers differ from an undisturbed run" "$log"
}

kinds=(kill requeue cancel preempt cut)
for ((seed = SOAK_SEED; seed < SOAK_SEED + SOAK_COUNT; seed++)); do
  RANDOM=$seed
  kind=${kinds[RANDOM % 5]} ranks=$((2 + RANDOM % 3)) moment=$((20 + RANDOM % 400))
  it "seed $seed: $kind, $ranks ranks, after $moment answers" disturb "$kind" "$ranks" "$moment" "$seed"
done
