# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# The program itself, serving the demo model from jobs of one to four ranks on two nodes.
export SLUICE_HOME=$work/home MODEL_ID=${SLUICE_TEST_MODEL:-$repository/tests/models/demo} SLUICE_THREADS=1
export SLURM_CONF=/tmp/sluice-test-cluster/etc/slurm.conf
unset RELEASE_DIR
record() { echo "$SLUICE_HOME/jobs/$1.json"; }
field() { sed -nE "s/^ *\"$2\": \"?([^\",]*)\"?,?\$/\1/p" "$(record "$1")"; }

# serve SBATCH-ARGUMENT...: submits serve.sh, waits until it is ready; sets job, url, auth.
serve() {
  job=$(submit "$log" "$@" "$repository/slurm/serve.sh") || fail "sbatch failed"
  ready "$job"
  wait_for 20 grep -q 'For OpenAI clients' "$log" || fail "the log does not say how to connect" "$log" # srun hands it on a little later
}
ready() {
  wait_for 120 grep -q '"state": "ready"' "$(record "$1")" || fail "job $1 did not become ready: $(job_state "$1")" "$log"
  url=$(field "$1" url)
  auth="Authorization: Bearer $(cat "$(field "$1" key_file)" 2>/dev/null)"
}
# post PATH BODY [CURL-ARGUMENT...]
post() { slurm curl -sS --max-time 120 -H "$auth" -H 'Content-Type: application/json' "${@:3}" -d "$2" "$url$1"; }
status() { post "$1" "$2" -o /dev/null -w '%{http_code}'; }
ask() { post /generate "{\"inputs\":\"$1\",\"parameters\":{\"max_new_tokens\":40$2}}"; }
# The text of a few greedy and seeded answers.
answers() {
  local prompt
  for prompt in "What is the capital of France?" "Once upon a time" "What is 7 plus 5?"; do
    ask "$prompt" ""
    echo
    ask "$prompt" ',"do_sample":true,"temperature":0.9,"top_p":0.95,"seed":11'
    echo
  done
}
lines() { wc -l <"$1"; }

start_line() {
  serve -n1
  has "$log" '"event":"start"' 1
  has "$log" '"world":1'
  has "$log" "ssh -N -L localhost:"
  lacks "$log" "$(cat "$(field "$job" key_file)")"
  [[ $(stat -c %a "$(record "$job")" "$(field "$job" key_file)" | xargs) == "600 600" ]] || fail "record and key should have mode 600"
  [[ $url == "http://n1:$((10000 + 10#$job % 10000))" ]] || fail "expected the job's port, found $url"
  answers >"$work/reference"
  has "$work/reference" generated_text 6
  [[ $(status /v1/chat/completions '{"model":"demo","messages":[{"role":"user","content":"What is the capital of France?"}]}') == 200 ]] || fail "chat failed"
  [[ $(slurm "$build/sluice" run "$job" --temperature 0 "What is the capital of France?" </dev/null 2>"$work/other") == "The capital of France is Paris." ]] ||
    fail "the job does not answer by its id" "$work/other"
}
it "one rank serves with its port, record and key" start_line

terminal() {
  printf 'What is the capital of France?\n/bye\n' |
    timeout 60 script -qec "$repository/scripts/test-cluster.sh run srun -n1 --pty $build/sluice chat $MODEL_ID" /dev/null >"$log" 2>&1 || fail "the conversation failed" "$log"
  has "$log" "The capital of France is Paris."
}
it "srun --pty talks at a terminal" terminal

# same_answers WORLD TP PP SBATCH-ARGUMENT...
same_answers() {
  local world=$1 tp=$2 pp=$3
  shift 3
  [[ -s $work/reference ]] || fail "no reference: the first test failed"
  TP=$tp PP=$pp TP_ACROSS_HOSTS=true serve "$@"
  has "$log" "\"world\":$world,\"tp\":$tp,\"pp\":$pp" 1
  answers >"$work/other"
  diff "$work/reference" "$work/other" >"$work/diff" || fail "the answers differ" "$work/diff"
}
it "two ranks on two nodes with tp answer as one does" same_answers 2 2 1 -N2 -n2
it "two ranks on two nodes with pp answer as one does" same_answers 2 1 2 -N2 -n2
it "four ranks on two nodes with tp and pp answer as one does" same_answers 4 2 2 -N2 --ntasks-per-node=2
it "three ranks, unevenly placed, answer as one does" same_answers 3 1 3 -N2 -n3

default_layout() {
  serve -N2 -n2
  has "$log" '"world":2,"tp":1,"pp":2' 1
}
it "one rank per node is a pipeline unless told otherwise" default_layout

metric() { slurm curl -sS -H "$auth" "$url/metrics" | sed -nE "s/^$1(\\{[^}]*\\})? (.*)/\\2/p"; }
in_time() {
  for _ in 1 2 3; do # other tests may have the machine for a while
    serve -N2 --ntasks-per-node=2
    ! awk -v ready="$(metric sluice_ready_seconds)" -v load="$(metric sluice_load_seconds)" \
      'BEGIN { printf "    ready %.2f s after the start, of which loading %.2f s\n", ready, load; exit !(ready > 0 && ready - load < 3) }' || return 0
    slurm scancel "$job"
    log+=.again
  done
  fail "more than 3 s beyond loading" "$log"
}
it "a step of four ranks is ready within three seconds beyond loading" in_time

gpus_per_task() {
  serve -n1 -c4 --gpus-per-task=2
  has "$log" '"world":2' 1
}
it "one task with --gpus-per-task=2 serves with two ranks" gpus_per_task

stripped_export() {
  serve -n2 "--export=MODEL_ID=$MODEL_ID,SLUICE_HOME=$SLUICE_HOME,SLUICE_THREADS=1"
  has "$log" '"world":2' 1
  [[ $(ask "Once upon a time" "") == *generated_text* ]] || fail "no answer" "$log"
}
it "--export=MODEL_ID=... alone serves" stripped_export

key_or_none() {
  serve -n1
  auth="X-Nothing: 1"
  [[ $(status /generate '{"inputs":"a"}') == 401 ]] || fail "expected 401 without the key"
  [[ $(slurm curl -s -o /dev/null -w '%{http_code}' "$url/health") == 200 ]] || fail "/health should need no key"
  slurm scancel "$job"
  AUTH=none serve -n1
  auth="X-Nothing: 1"
  [[ $(status /generate '{"inputs":"a"}') == 200 ]] || fail "expected an answer under AUTH=none"
}
it "every job has its key, unless AUTH=none" key_or_none

same_digits() {
  local first
  scripts/test-cluster.sh next-job 17777
  serve -n1 -w n1
  first=$url
  [[ $first == http://n1:17777 ]] || fail "expected port 17777, found $first"
  scripts/test-cluster.sh next-job 27777
  serve -n1 -w n1
  [[ $url == http://n1:* && $url != "$first" ]] || fail "expected another port of n1, found $url"
  [[ $(ask "Once upon a time" "") == *generated_text* ]] || fail "the second job does not answer"
  url=$first auth="Authorization: Bearer $(cat "$(field 17777 key_file)")"
  [[ $(ask "Once upon a time" "") == *generated_text* ]] || fail "the first job does not answer"
}
it "two jobs with the same last four digits serve on one node" same_digits

fixed_port() {
  AUTH=none serve -n1 -w n1
  job=$(PORT=${url##*:} submit "$log" -n1 -w n1 "$repository/slurm/serve.sh")
  wait_for 60 job_gone "$job" || fail "the job still runs" "$log"
  has "$log" 'Address already in use'
}
it "a fixed port that is taken is an error, not a walk" fixed_port

all_running() { slurm curl -s -H "$auth" "$url/metrics" | grep -qE '^vllm:num_requests_running[^ ]* 8$'; }
drain() {
  local i pids=()
  serve -N2 -n2
  for i in 1 2 3 4 5 6 7 8; do
    post /v1/completions '{"prompt":"Once upon a time","max_tokens":900,"ignore_eos":true,"temperature":0}' >"$work/answer.$i" &
    pids+=($!)
  done
  wait_for 20 all_running || fail "the eight requests were never under way together" "$log"
  slurm scancel --batch --signal=TERM "$job"
  wait "${pids[@]}"
  for i in 1 2 3 4 5 6 7 8; do has "$work/answer.$i" '"completion_tokens":900' 1; done
  wait_for 60 job_gone "$job" || fail "the job did not end" "$log"
  [[ $(field "$job" state) == stopped ]] || fail "expected state stopped" "$(record "$job")"
  has "$log" 'every accepted request was answered'
}
it "TERM loses no accepted request" drain

killed_rank() {
  local start
  serve -N2 --ntasks-per-node=2
  on n2 true
  pkill_rank n2
  start=$SECONDS
  wait_for 30 job_gone "$job" || fail "the job still runs" "$log"
  ((SECONDS - start <= 15)) || fail "the ranks took $((SECONDS - start)) s to leave"
  [[ $(field "$job" state) == stopped ]] || fail "expected state stopped" "$(record "$job")"
  has "$(record "$job")" 'on n2'
}
# The last rank of a node.
pkill_rank() {
  local victim
  victim=$(ranks_on "$1" | tail -n 1)
  [[ -n $victim ]] || fail "no rank on $1"
  kill -KILL "$victim"
}
it "the death of one rank ends the job with its name in the record" killed_rank

cut_off() {
  local left=""
  serve -N2 --ntasks-per-node=2
  ip link set sluice-v2 down
  wait_for 10 no_ranks || left=$(ranks_on n1 n2)
  ip link set sluice-v2 up
  [[ -z $left ]] || fail "ranks are left after 10 s: $left" "$log"
  [[ $(field "$job" state) == stopped ]] || fail "expected state stopped" "$(record "$job")"
  has "$(record "$job")" 'on n2' 1
  has "$(record "$job")" 'nothing heard of it for' 1
  wait_for "$silent" job_gone "$job" || fail "the job still runs" "$log"
}
it "a host that is cut off ends every rank within ten seconds, with its name in the record" cut_off

wrong_count() {
  TP=2 PP=2 submit "$log" -W -n3 "$repository/slurm/serve.sh" >/dev/null && fail "expected a failure" "$log"
  has "$log" '3 ranks were started'
  has "$log" '--ntasks=4'
}
it "a task count that is not tp times pp is refused with the numbers that work" wrong_count

without_pmi() {
  SITE_MPI=none same_answers 2 2 1 -N2 -n2
  has "$log" '"transport":"tcp"' 1
}
it "two ranks without any PMI answer as one does" without_pmi

by_mpirun() {
  slurm salloc -Q -N2 --ntasks-per-node=1 mpirun --allow-run-as-root "$repository/build/cpu/sluice" serve >"$log" 2>&1 &
  wait_for 120 grep -q '"event":"start"' "$log" || fail "it did not start" "$log"
  has "$log" '"launcher":"ompi"' 1
  has "$log" '"world":2' 1
}
it "mpirun in an allocation serves" by_mpirun

preempted() {
  local key
  serve -N2 -n2 -c8
  key=$auth
  slurm srun -p high -N2 -n2 -c8 sleep 3 || fail "the preemptor did not run" "$log"
  wait_for 90 grep -q '"restart_count": 1' "$(record "$job")" || fail "the job did not come back" "$log"
  ready "$job"
  [[ $auth == "$key" ]] || fail "the key changed"
  [[ $(ask "Once upon a time" "") == *generated_text* ]] || fail "no answer after the requeue" "$log"
}
it "a preempted server comes back with the same key" preempted
