# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# A job array of four tasks that share a file, disturbed one to three times per seed, on the two-node cluster; read by tests/slurm/run.sh for
# scripts/soak.sh --slurm-array. The file lies on a file system of its own, which runs full.
readonly prompts=1500
export PROMPTS=$work/prompts.jsonl
for ((i = 0; i < prompts; i++)); do printf '{"prompt":"What is %d plus %d?","temperature":%d}\n' $((i % 37)) $((i % 23)) $((i % 2)); done >"$PROMPTS"

# shellcheck source-path=SCRIPTDIR
source "$repository/tests/soak/slurm_generation.sh"

answers_or_end() { [[ -f $OUTPUT ]] || (($(cat "$OUTPUT".shared/journals/* 2>/dev/null | wc -l) > $1)) || queue_empty; }
over() { [[ -f $OUTPUT ]] || queue_empty; }
nothing_runs() { [[ -z $(slurm squeue -h -t RUNNING,COMPLETING) ]]; }

# disturb_once KIND: of the array `job`, a task and a node at random.
disturb_once() {
  local pids free task=$((RANDOM % 4)) node=$((1 + RANDOM % 2))
  case $1 in
  kill)
    mapfile -t pids < <(ranks_on n1 n2)
    ((${#pids[@]} == 0)) || kill -KILL "${pids[RANDOM % ${#pids[@]}]}"
    ;;
  requeue) slurm scontrol requeue "${job}_$task" ;;
  drain) slurm scancel --batch --signal=TERM "${job}_$task" ;;
  cancel) slurm scancel "${job}_$task" ;;
  preempt) slurm srun -Q -p high -w "n$node" -N1 -n1 -c8 sleep 1 || fail "the preemptor did not run" "$log" ;;
  full)
    free=$(($(stat -f -c '%a * %S' "$work/small") - 16384 * (RANDOM % 4)))
    head -c "$free" /dev/zero >"$work/small/ballast" 2>/dev/null
    wait_for 6 over
    rm "$work/small/ballast"
    ;;
  cut)
    ip link set "sluice-v$node" down
    sleep 12
    ip link set "sluice-v$node" up
    ;;
  esac
}

disturb() {
  local ranks=$1 moment=$2 job kind
  shift 2
  RANDOM=$seed
  export OUTPUT=$work/small/out.jsonl
  job=$(submit "$log" --array=0-3 -N"$ranks" -n"$ranks" -c$((4 / ranks)) "$repository/slurm/generate.sh")
  for kind in "$@"; do
    wait_for "$silent" answers_or_end "$moment" || fail "nothing was written" "$log"
    ((moment += 150))
    over || disturb_once "$kind" 2>>"$log"
  done
  wait_for 240 over || fail "it did not end" <(slurm squeue) "$log"
  # Where no task is left the same line is given again.
  [[ -f $OUTPUT ]] || submit "$log" -W --array=0-3 -n1 "$repository/slurm/generate.sh" >/dev/null
  [[ -f $OUTPUT ]] || fail "it did not complete" "$log"
  cmp "$OUTPUT" "$work/reference.jsonl" || fail "the answers differ from an undisturbed run" "$log"
  wait_for "$silent" nothing_runs || fail "a task did not end" <(slurm squeue) "$log"
  [[ ! -e $OUTPUT.shared ]] || fail "the shared folder was left behind" "$log"
  rm "$OUTPUT"
}

kinds=(kill requeue drain cancel preempt full cut)
for ((seed = SOAK_SEED; seed < SOAK_SEED + SOAK_COUNT; seed++)); do
  RANDOM=$seed
  ranks=$((1 + RANDOM % 2)) moment=$((RANDOM % 400)) chosen=()
  for ((i = RANDOM % 3; i >= 0; i--)); do chosen+=("${kinds[RANDOM % ${#kinds[@]}]}"); done
  it "seed $seed: ${chosen[*]}; tasks of $ranks, after $moment answers" disturb "$ranks" "$moment" "${chosen[@]}"
done
