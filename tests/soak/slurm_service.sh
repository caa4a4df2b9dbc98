# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# One service under constant load through `sluice route` per seed, on the two-node cluster: three of its jobs are ended by their time limit, while
# the next one waits for the room that they leave, or by another partition's jobs. Read by tests/slurm/run.sh for scripts/soak.sh --service.
export SLUICE_HOME=$work/home SLUICE_THREADS=1
model=$repository/tests/models/demo sluice=$build/sluice
unset RELEASE_DIR MODEL_ID

ask() {
  slurm curl -s -o /dev/null -w '%{http_code}\n' --max-time 90 -H "Authorization: Bearer $(cat "$key")" -H 'Content-Type: application/json' \
    -d '{"inputs":"What is the capital of France?","parameters":{"max_new_tokens":30}}' "$route/generate"
}
worker() { while [[ ! -e $work/enough ]]; do ask >>"$1" || echo "curl $?" >>"$1"; done; }
# The job that serves as number N is ready.
serves() {
  local id
  id=$(cat "$SLUICE_HOME/services/$name/$1" 2>/dev/null) && [[ -n $id ]] && grep -q '"state": "ready"' "$SLUICE_HOME/jobs/$id.json"
}
node_of() { slurm squeue -h -j "$(cat "$SLUICE_HOME/services/$name/$1")" -o %N; }

service() {
  local kind=$1 i pids=() shape=() number route key name=s$2
  cd "$work" || exit
  rm -f "$work/enough"
  # At the limit there is room for one alone: all CPUs of both nodes.
  [[ $kind == preempted ]] || shape=(-t 2 --keep-alive-lead 1:50 -N2 -n2 -- --exclusive)
  ((${#shape[@]} > 0)) || shape=(-t 30 -c4)
  slurm "$sluice" launch "$model" --cpu --mem 600M --name "$name" --keep-alive --keep-alive-overlap 0:02 --json "${shape[@]}" >"$log" 2>&1 || fail "launch failed" "$log"
  begin "$work/route" slurm "$sluice" route --model "$model"
  wait_for 20 grep -q OPENAI "$work/route" || fail "route did not start" "$work/route.err"
  route=$(head -1 "$work/route") key=$(sed -n 's/key file: //p' "$work/route")
  for i in 1 2 3 4; do
    worker "$work/codes.$i" &
    pids+=($!)
  done
  for number in 2 3 4; do
    sleep 5
    if [[ $kind == preempted ]]; then
      slurm srun -Q -p high -w "$(node_of $((number - 1)))" -n1 -c8 sleep 1 || fail "the other job did not run" <(slurm squeue)
    fi
    wait_for 200 serves "$number" || fail "job $number of the service did not become ready" <(slurm squeue) "$log" ./*"$name"*.log
  done
  sleep 5
  touch "$work/enough"
  wait "${pids[@]}"
  end "$work/route"
  [[ $(sort -u "$work"/codes.?) == 200 ]] || fail "of $(cat "$work"/codes.? | wc -l) requests some failed: $(sort "$work"/codes.? | uniq -c)" "$work/route.err" ./*"$name"*.log
  printf '    %s requests over three jobs that ended so, none failed\n' "$(cat "$work"/codes.? | wc -l)"
  rm -f "$work"/codes.?
  slurm "$sluice" stop "$name" >"$log" || fail "stop failed" "$log"
}

kinds=(preempted limit)
for ((seed = SOAK_SEED; seed < SOAK_SEED + SOAK_COUNT; seed++)); do
  it "seed $seed: jobs that are ended by: ${kinds[seed % 2]}" service "${kinds[seed % 2]}" "$seed"
done
