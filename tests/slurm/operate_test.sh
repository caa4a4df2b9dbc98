# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# What a person does with servers: launch them, keep them alive, find out what is wrong.
export SLUICE_HOME=$work/home SLUICE_THREADS=1
model=$repository/tests/models/demo sluice=$build/sluice
unset RELEASE_DIR MODEL_ID
mkdir "$work/here"

# launch ARGUMENT...: the demo model on CPUs (one, or $cpus), small enough for these nodes.
launch() {
  cd "$work/here" || exit
  slurm "$sluice" launch "$model" --cpu -c"${cpus:-1}" --mem 600M "$@"
}
# value FILE KEY: of a flat JSON output
value() { sed -nE "s/^ *\"$2\": \"?([^\",]*)\"?,?\$/\1/p" "$1"; }
# ask URL KEY-FILE: the HTTP status of a question
ask() {
  slurm curl -s -o /dev/null -w '%{http_code}' --max-time 60 -H "Authorization: Bearer $(cat "$2" 2>/dev/null)" -H 'Content-Type: application/json' \
    -d '{"inputs":"What is the capital of France?","parameters":{"max_new_tokens":30}}' "$1/generate"
}

launched() {
  launch -t 10 >"$log" 2>"$work/err" || fail "launch failed" "$work/err" "$log"
  has "$work/err" 'pending'
  has "$log" 'is ready at http://n'
  has "$log" 'ssh -N -L localhost:'
  has "$log" 'sluice connect'
  job=$(grep -oE 'connect [0-9]+' "$log" | cut -d' ' -f2)
  [[ $(ask "$(value "$SLUICE_HOME/jobs/$job.json" url)" "$SLUICE_HOME/keys/$job.key") == 200 ]] || fail "no answer"
  [[ -s sluice-demo-$job.log ]] || fail "the log should be here: $(ls)"
}
it "launch submits, waits and says how to reach the server" launched

alone() {
  mkdir "$work/elsewhere"
  launch -N2 --ranks 2 -t 10 --dry-run --output-script "$work/elsewhere/job.sh" 2>/dev/null >"$log" || fail "launch failed" "$log"
  [[ ! -s $log && -z $(slurm squeue -h) ]] || fail "a dry run submits and prints nothing beside the file" "$log"
  if command -v shellcheck >/dev/null; then
    shellcheck "$work/elsewhere/job.sh" >"$log" || fail "the script does not pass shellcheck" "$log"
  fi
  job=$(cd "$work/elsewhere" && slurm sbatch --parsable job.sh)
  wait_for 60 grep -q '"state": "ready"' "$SLUICE_HOME/jobs/$job.json" || fail "it did not become ready" "$work/here/sluice-demo-$job.log"
  # The record is on disk before the step's output has passed through Slurm.
  wait_for 10 grep -q '"world":2' "$work/here/sluice-demo-$job.log" || fail "the log lacks the start" "$work/here/sluice-demo-$job.log"
}
it "the script of launch runs by itself with sbatch" alone

told() {
  local verb
  launch -t 10 --json >"$log" 2>"$work/err" || fail "launch failed" "$work/err" "$log"
  job=$(value "$log" job)
  for verb in "list" "status $job" "logs $job" "metrics $job" "stop $job"; do
    # shellcheck disable=SC2086  # verb and job
    slurm "$sluice" $verb --json >"$log" || fail "$verb failed" "$log"
    python3 -c 'import json, sys; text = sys.stdin.read(); [json.loads(part) for part in (text.splitlines() if "logs" in sys.argv[1] else [text])]' "$verb" <"$log" ||
      fail "$verb --json is no JSON" "$log"
  done
  wait_for 20 queue_empty || fail "stop did not end it" <(slurm squeue)
  slurm "$sluice" status "$job" --json >"$log" && fail "the exit code should say that it has ended" "$log"
  has "$log" '"state": "stopped"'
}
it "list, status, logs, metrics and stop speak JSON" told

says_ready() { [[ $(slurm "$sluice" status "$1" 2>/dev/null) =~ state\ +ready ]]; }
of_an_array() {
  local array words
  array=$(submit "$work/here/array-%a.log" -t 10 --array=0-1 -n1 -c1 --mem=600M --export="ALL,MODEL_ID=$model" "$repository/slurm/serve.sh")
  wait_for 60 says_ready "${array}_0" || fail "task 0 is not ready" "$work/here/array-0.log"
  wait_for 60 says_ready "${array}_1" || fail "task 1 is not ready" "$work/here/array-1.log"
  slurm "$sluice" stop "${array}_0" >"$log" || fail "stop failed" "$log"
  wait_for 30 job_gone "${array}_0" || fail "it did not end" <(slurm squeue)
  slurm "$sluice" status "${array}_0" >"$log" && fail "the exit code should say that it has ended" "$log"
  has "$log" "(${array}_0)"
  has "$log" 'stopped'
  slurm "$sluice" logs "${array}_0" >"$log" || fail "its log is not found" "$log"
  has "$log" 'drained'
  slurm "$sluice" stop "${array}_0" >"$log" || fail "stop of an ended task failed" "$log"
  has "$log" 'has ended already'
  words=$(slurm "$sluice" run "${array}_1" --temperature 0 "What is the capital of France?" </dev/null 2>"$log")
  [[ $words == "The capital of France is Paris." ]] || fail "task 1 answers: $words" "$log"
  slurm "$sluice" connect "${array}_0" >"$log" 2>&1 && fail "connect to an ended task" "$log"
  has "$log" 'is stopped: drained'
}
it "a task of an array is known by the array's name, also when it has ended" of_an_array

left() {
  launch -- --begin=now+1hour >"$log" 2>&1 &
  wait_for 20 grep -q 'BeginTime: its start time is to come' "$log" || fail "no pending reason" "$log"
  pkill -INT -f "^$sluice launch $model --cpu -c1 --mem 600M -- --begin"
  wait "$!"
  has "$log" 'goes on without you (pending)'
  job=$(slurm squeue -h -o %i)
  slurm "$sluice" stop "$job" >"$log" || fail "stop failed" "$log"
  wait_for 10 queue_empty || fail "the job is still there"
}
it "Ctrl-C leaves a waiting job and says how to go on" left

failing() {
  launch --tokenizer /nowhere >"$log" 2>&1 && fail "expected a failure" "$log"
  has "$log" 'the end of '
  has "$log" '/nowhere'
  has "$log" 'ended before it was ready'
  has "$log" 'FAILED, exit code 2'
  launch --json --tokenizer /nowhere >"$log" 2>/dev/null && fail "expected a failure" "$log"
  [[ $(value "$log" state) == ended ]] || fail "expected state ended" "$log"
}
it "a job that fails shows the end of its log and Slurm's word" failing

worker() {
  while [[ ! -e $work/enough ]]; do
    ask "$1" "$2"
    echo
  done >>"$3"
}
# A link is claimed before the id of its job is known.
chain_reached() { [[ -s $SLUICE_HOME/services/keep/$1 ]]; }
one_job() { [[ $(slurm squeue -h | wc -l) == 1 ]]; }
chain_of_four() {
  local i route connect workers=()
  launch --name keep -t 4 --keep-alive --keep-alive-jobs 4 --keep-alive-lead 3:55 --keep-alive-overlap 0:04 --json >"$log" 2>"$work/err" ||
    fail "launch failed" "$work/err" "$log"
  begin "$work/route" slurm "$sluice" route --model "$model"
  begin "$work/connect" slurm "$sluice" connect keep
  wait_for 20 grep -q OPENAI "$work/route" || fail "route did not start" "$work/route.err"
  wait_for 20 grep -q OPENAI "$work/connect" || fail "connect did not start" "$work/connect.err"
  route=$(head -1 "$work/route") connect=$(head -1 "$work/connect")
  worker "$route" "$(sed -n 's/key file: //p' "$work/route")" "$work/codes.1" &
  workers+=($!)
  worker "$connect" /dev/null "$work/codes.2" &
  workers+=($!)
  wait_for 100 chain_reached 4 || fail "the chain did not reach four jobs" "$log" ./*keep*.log
  wait_for 60 grep -q '"state": "ready"' "$SLUICE_HOME/jobs/$(cat "$SLUICE_HOME/services/keep/4").json" ||
    fail "the fourth job did not become ready" <(slurm squeue) "$SLUICE_HOME/jobs/$(cat "$SLUICE_HOME/services/keep/4").json" ./*keep*.log
  wait_for 60 one_job || fail "one job should be left" <(slurm squeue)
  touch "$work/enough"
  wait "${workers[@]}"
  end "$work/route"
  end "$work/connect"
  for i in 1 2; do
    lacks "$work/codes.$i" 503
    [[ $(sort -u "$work/codes.$i") == 200 ]] || fail "of $(wc -l <"$work/codes.$i") requests some failed: $(sort "$work/codes.$i" | uniq -c)" "$work/route.err" "$work/connect.err"
    printf '    %s requests over three successors, none failed\n' "$(wc -l <"$work/codes.$i")"
  done
  [[ $(value "$SLUICE_HOME/services/keep/endpoint.json" id) == "$(cat "$SLUICE_HOME/services/keep/4")" ]] || fail "endpoint.json should show the fourth"
  slurm "$sluice" status keep >"$log" || fail "status failed" "$log"
  has "$log" 'keep, job 4 of its chain'
  slurm "$sluice" stop keep >"$log" || fail "stop failed" "$log"
  wait_for 60 queue_empty || fail "the service still runs" <(slurm squeue)
  [[ ! -e $SLUICE_HOME/services/keep/5 ]] || fail "a fifth job was submitted"
}
it "a service goes on over three successors without a failed request" chain_of_four

node_of() { slurm squeue -h -j "$1" -o %N; }
# connected FILE JOB [OPTION...]: a local end of its own, whose address is the first line of FILE
connected() {
  local to=$1
  shift
  begin "$to" slurm "$sluice" connect "$@"
  wait_for 30 grep -q OPENAI "$to" || fail "connect did not start" "$to.err"
}
answers() { [[ $(ask "$1" /dev/null) == 200 ]]; }

# Stands in for ssh: no node here has its daemon. One forwarding from a local port to a socket or port as the host named last sees it.
mkdir -p "$work/ssh"
cat >"$work/ssh/ssh" <<'SSH'
#!/usr/bin/env python3
import ctypes, pathlib, shutil, socket, sys, threading
port, *target = sys.argv[sys.argv.index("-L") + 1].split(":")[1:]
host = sys.argv[-1]
pathlib.Path(__file__).with_name("asked").write_text(host)
def copy(a, b):
    shutil.copyfileobj(a.makefile("rb", 0), b.makefile("wb", 0))
    b.shutdown(socket.SHUT_WR)
def forward(near):
    network = pathlib.Path("/run/netns/sluice-" + host)
    if network.exists():
        with open(network) as place:
            ctypes.CDLL(None).setns(place.fileno(), 0)
    if len(target) == 2:
        far = socket.create_connection((target[0], int(target[1])))
    else:
        far = socket.socket(socket.AF_UNIX)
        far.connect(target[0])
    for pair in ((near, far), (far, near)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
listening = socket.create_server(("127.0.0.1", int(port)))
while True:
    threading.Thread(target=forward, args=(listening.accept()[0],), daemon=True).start()
SSH
chmod +x "$work/ssh/ssh"

on_a_socket() {
  local node=n1 word
  launch -t 10 --host "unix:$work/server.sock" -- -w "$node" --comment "two words" -t 11 >"$log" 2>"$work/err" || fail "launch failed" "$work/err" "$log"
  job=$(grep -oE 'connect [0-9]+' "$log" | cut -d' ' -f2)
  slurm scontrol -o show job "$job" >"$work/shown"
  for word in 'ReqNodeList=n1 ' 'Comment=two words' 'TimeLimit=00:11:00'; do has "$work/shown" "$word"; done
  [[ $(stat -c %a "$work/server.sock") == 600 ]] || fail "the socket is not private"
  begin "$work/near" on "$node" "$sluice" connect "$job"
  wait_for 30 grep -q OPENAI "$work/near" || fail "connect did not start" "$work/near.err"
  [[ $(on "$node" curl -s -o /dev/null -w '%{http_code}' "$(head -1 "$work/near")/v1/models") == 200 ]] || fail "no answer on the node" "$work/near.err"
  PATH=$work/ssh:$PATH connected "$work/far" "$job"
  wait_for 30 answers "$(head -1 "$work/far")" || fail "no answer through ssh" "$work/far.err"
  [[ $(cat "$work/ssh/asked") == "$node" ]] || fail "ssh went to $(cat "$work/ssh/asked")"
  end "$work/near"
  end "$work/far"
}
it "connect reaches a server's socket on its node, and by ssh from elsewhere" on_a_socket

through_ssh() {
  launch -t 10 --host 127.0.0.1 >"$log" 2>"$work/err" || fail "launch failed" "$work/err" "$log"
  job=$(grep -oE 'connect [0-9]+' "$log" | cut -d' ' -f2)
  has "$log" 'is ready at http://localhost:'
  has "$log" "@$(node_of "$job")" 1 # ssh jumps to the node itself
  PATH=$work/ssh:$PATH connected "$work/node" "$job"
  wait_for 30 answers "$(head -1 "$work/node")" || fail "no answer through the node" "$work/node.err"
  [[ $(cat "$work/ssh/asked") == "$(node_of "$job")" ]] || fail "ssh went to $(cat "$work/ssh/asked")"
  end "$work/node"
  launch -t 10 >"$log" 2>"$work/err" || fail "launch failed" "$work/err" "$log"
  job=$(grep -oE 'connect [0-9]+' "$log" | cut -d' ' -f2)
  PATH=$work/ssh:$PATH connected "$work/hop" "$job" --via login
  wait_for 30 answers "$(head -1 "$work/hop")" || fail "no answer through the login node" "$work/hop.err"
  [[ $(cat "$work/ssh/asked") == login ]] || fail "ssh went to $(cat "$work/ssh/asked")"
  end "$work/hop"
}
it "connect goes by ssh to a node whose port is closed, or through the host of --via" through_ssh

follows() {
  local first second
  cpus=8 launch -t 10 --json >"$log" 2>"$work/err" || fail "launch failed" "$work/err" "$log"
  job=$(value "$log" job)
  first=$(node_of "$job")
  connected "$work/follow" "$job"
  answers "$(head -1 "$work/follow")" || fail "no answer" "$work/follow.err"
  slurm srun -Q -p high -w "$first" -n1 -c8 sleep 60 &
  wait_for 100 moved || fail "it did not come back" <(slurm squeue)
  wait_for 30 answers "$(head -1 "$work/follow")" || fail "no answer after the requeue" "$work/follow.err"
  second=$(node_of "$job")
  [[ $second == n? && $second != "$first" ]] || fail "it should have moved from $first, found '$second'"
  wait_for 20 grep -q ": ready at http://$second:" "$work/follow.err" || fail "connect does not say where it is" "$work/follow.err"
  end "$work/follow"
}
moved() { [[ $(slurm squeue -h -j "$job" -o "%T %N") == "RUNNING n"* && $(node_of "$job") != "$first" ]]; }
it "connect follows a preempted job to its next node" follows

preempted_service() {
  rm -f "$work/enough"
  cpus=4 launch --name gone -t 10 --keep-alive --json >"$log" 2>"$work/err" || fail "launch failed" "$work/err" "$log"
  begin "$work/route" slurm "$sluice" route --model "$model"
  wait_for 20 grep -q OPENAI "$work/route" || fail "route did not start" "$work/route.err"
  worker "$(head -1 "$work/route")" "$(sed -n 's/key file: //p' "$work/route")" "$work/codes.3" &
  worker=$!
  sleep 1
  slurm srun -Q -p high -w "$(node_of "$(value "$log" job)")" -n1 -c8 sleep 1 || fail "the other job did not run" <(slurm squeue)
  wait_for 60 chain_ready gone 2 || fail "the next job did not become ready" <(slurm squeue) ./*gone*.log
  sleep 2
  touch "$work/enough"
  wait "$worker"
  end "$work/route"
  [[ $(sort -u "$work/codes.3") == 200 ]] || fail "of $(wc -l <"$work/codes.3") requests some failed: $(sort "$work/codes.3" | uniq -c)" "$work/route.err"
  slurm "$sluice" run gone 'What is the capital of France?' >"$log" || fail "run failed" "$log"
  has "$log" Paris
  slurm "$sluice" list >"$log"
  has "$log" '(gone)' 1
  slurm "$sluice" stop gone >"$log" || fail "stop failed" "$log"
}
chain_ready() { grep -q '"state": "ready"' "$SLUICE_HOME/jobs/$(cat "$SLUICE_HOME/services/$1/$2").json"; }
it "a preempted service goes on as its next job without a failed request" preempted_service

drained_node() {
  local node other
  launch --name dr -t 4 --keep-alive --keep-alive-jobs 3 --keep-alive-lead 3:55 --keep-alive-overlap 0:02 --json >"$log" 2>"$work/err" || fail "launch failed" "$work/err" "$log"
  node=$(node_of "$(value "$log" job)")
  slurm scontrol update "NodeName=$node" State=DRAIN Reason=maintenance || fail "no drain" "$log"
  wait_for 100 chain_ready dr 3
  other=$(node_of "$(cat "$SLUICE_HOME/services/dr/3")")
  slurm "$sluice" run dr 'What is the capital of France?' >"$log" 2>&1
  slurm scontrol update "NodeName=$node" State=RESUME
  [[ $other == n? && $other != "$node" ]] || fail "the third job should run on the other node than $node, found '$other'" <(slurm squeue) ./*dr*.log
  has "$log" Paris
  slurm "$sluice" stop dr >"$log" || fail "stop failed" "$log"
}
it "a service leaves a node that is being drained" drained_node

replicas() { slurm squeue -h -t RUNNING -o %i | wc -l; }
two_replicas() { (($(replicas) == 2)); }
scaled() {
  local i
  launch -t 10 --dry-run --output-script "$work/replica.sh" 2>"$work/err" || fail "launch failed" "$work/err"
  begin "$work/route" slurm "$sluice" route --model "$model" --script "$work/replica.sh" --min 0 --max 2 --scale-up 1 --idle-seconds 8
  wait_for 20 grep -q OPENAI "$work/route" || fail "route did not start" "$work/route.err"
  [[ $(ask "$(head -1 "$work/route")" "$(sed -n 's/key file: //p' "$work/route")") == 200 ]] || fail "the first request has started no server" "$work/route.err"
  [[ $(replicas) == 1 ]] || fail "one replica should run" <(slurm squeue) "$work/route.err"
  rm -f "$work/enough" "$work"/codes.*
  for i in 1 2 3 4 5 6; do worker "$(head -1 "$work/route")" "$(sed -n 's/key file: //p' "$work/route")" "$work/codes.$i" & done
  wait_for 60 two_replicas || fail "the load has started no second replica" "$work/route.err"
  sleep 5
  [[ $(slurm squeue -h | wc -l) == 2 ]] || fail "--max 2 was passed" <(slurm squeue)
  touch "$work/enough"
  wait_for 90 queue_empty || fail "idle replicas were not ended" <(slurm squeue) "$work/route.err"
  [[ $(sort -u "$work"/codes.?) == 200 ]] || fail "some requests failed: $(sort "$work"/codes.? | uniq -c)" "$work/route.err"
  end "$work/route"
}
it "route starts replicas by need, at most --max, and ends idle ones" scaled

refused_submission() {
  mkdir -p "$work/bin"
  # shellcheck disable=SC2016  # expanded when it runs
  printf '#!/bin/bash\n[[ $(hostname) != n* ]] || { echo "sbatch: error: submission from compute nodes is not allowed"; exit 1; }\nexec %s "$@"\n' "$(command -v sbatch)" >"$work/bin/sbatch"
  chmod +x "$work/bin/sbatch"
  PATH=$work/bin:$PATH launch --name no -t 5 --keep-alive >"$log" 2>&1 && fail "expected a refusal" "$log"
  has "$log" 'sbatch here says: sbatch: error: submission from compute nodes is not allowed'
  lacks "$log" 'weights:'
}
it "--keep-alive is refused where compute nodes may not submit" refused_submission

doctor_in_a_step() {
  slurm srun -N2 -n2 --mpi=pmix -t 10 "$sluice" doctor --no-internet >"$log" 2>"$work/err" || fail "it found something wrong" "$log" "$work/err"
  has "$log" 'MPI, 2 ranks on 2 hosts: '
  has "$log" 'rank 0 of 2 by pmix'
  has "$log" 'srun --mpi=list: '
  has "$log" ' is free'
  has "$log" 'time left' 1
}
it "doctor measures what the ranks of a step exchange" doctor_in_a_step

doctor_complains() {
  mkdir -p "$SLUICE_HOME/keys"
  echo x >"$SLUICE_HOME/keys/open.key"
  chmod 644 "$SLUICE_HOME/keys/open.key"
  slurm salloc -Q -n1 -t 5 env SITE_MPI=openmpi NCCL_SOCKET_IFNAME==hsn0 "$sluice" doctor --json --no-internet >"$log" 2>/dev/null && fail "expected exit code 1" "$log"
  rm "$SLUICE_HOME/keys/open.key"
  has "$log" 'open.key (0644)'
  has "$log" 'SITE_MPI=openmpi is not among'
  has "$log" 'NCCL_SOCKET_IFNAME==hsn0 names none of'
  has "$log" '"verdict": "fail"' 3
}
it "doctor in an allocation names what is wrong and how to cure it" doctor_complains
