#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Brings up the two-node Slurm, runs the tests of one file, takes it down. Usage: run.sh BUILD_DIR TEST_FILE [PATTERN]
# A test file calls `it "sentence" function`; PATTERN runs only the sentences that contain it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
readonly repository=$PWD
# shellcheck disable=SC2034  # build is for the test file
readonly build=$1 file=$2 pattern=${3:-}

((EUID == 0)) || exec scripts/test-cluster.sh up # says why not and answers 77
# One cluster per machine: another run of these tests is waited for. The lock is this shell's own, so that it lasts until the cluster is down,
# whatever ends the run.
if [[ -z ${SLUICE_CLUSTER_LOCKED:-} ]]; then
  exec 9>/tmp/sluice-test-cluster.lock
  flock 9
  export SLUICE_CLUSTER_LOCKED=1
fi

work=$(mktemp -d /tmp/sluice-slurm-XXXXXX)
# A file system that tests may fill; mounted before the nodes' namespaces, so that they share it.
mkdir "$work/small" && mount -t tmpfs -o size=64m none "$work/small"
stop() {
  scripts/test-cluster.sh down
  umount "$work/small"
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 143' TERM INT
scripts/test-cluster.sh down
scripts/test-cluster.sh up 9>&- || exit

failed=0 passed=0
# Seconds after which a node that was cut off and did not hear of a job's end is asked again: KillWait and two MessageTimeouts, 125 here.
readonly silent=150
# Neither the nodes' daemons nor what a test leaves behind must hold the lock.
slurm() { "$repository"/scripts/test-cluster.sh run "$@" 9>&-; }
on() { "$repository"/scripts/test-cluster.sh on "$@" 9>&-; }

# begin FILE slurm|on NODE COMMAND...: behind the test, with its output in FILE and FILE.err; end FILE ends it.
begin() {
  local out=$1 where=("$2")
  shift 2
  [[ ${where[0]} == slurm ]] || { where+=("$1") && shift; }
  : >"$out" # here, not in the background: nobody may wait on the lines of an earlier command
  # shellcheck disable=SC2016,SC2094  # expanded by the inner shell
  "${where[@]}" sh -c 'echo $$ >"$0.pid" && exec "$@"' "$out" "$@" >"$out" 2>"$out.err" 9>&- &
}
end() { kill "$(cat "$1.pid")" && rm "$1.pid"; }

# fail WHY [FILE...]: the test goes on no further.
fail() {
  printf '    %s\n' "$1"
  shift
  for log in "$@"; do sed 's/^/    | /' "$log"; done
  exit 1
}
# has FILE TEXT [COUNT]: COUNT lines hold TEXT (default: at least one).
has() {
  local count
  count=$(grep -cF -- "$2" "$1" || true)
  if [[ -n ${3:-} ]]; then
    [[ $count == "$3" ]] || fail "expected $3 lines with '$2', found $count" "$1"
  else
    ((count > 0)) || fail "expected '$2'" "$1"
  fi
}
lacks() { ! grep -qF -- "$2" "$1" || fail "did not expect '$2'" "$1"; }
# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
  local tenths=$(($1 * 5))
  shift
  until "$@" >/dev/null 2>&1; do
    ((tenths-- > 0)) || return 1
    sleep 0.2
  done
}
# submit LOG SBATCH-ARGUMENT...: prints the job id.
submit() {
  local log=$1
  shift
  slurm sbatch --parsable -o "$log" "$@"
}
job_state() { slurm squeue -h -j "$1" -o %T 2>/dev/null; }
# A controller that does not answer is no empty queue.
job_gone() {
  local queue
  queue=$(slurm squeue -h -o '%i|') && [[ $'\n'$queue != *$'\n'"$1|"* ]]
}
queue_empty() {
  local queue
  queue=$(slurm squeue -h) && [[ -z $queue ]]
}
# NODE...: the process ids of the ranks there, by the nodes' network namespaces.
ranks_on() {
  local node pid
  for node in "$@"; do
    for pid in $(ip netns pids "sluice-$node"); do
      [[ $(readlink "/proc/$pid/exe") != */sluice ]] || echo "$pid"
    done
  done
}
no_ranks() { [[ -z $(ranks_on n1 n2) ]]; }
is_running() { [[ $(job_state "$1") == RUNNING ]]; }

it() {
  local sentence=$1 status started start=$SECONDS
  shift
  [[ $sentence == *"$pattern"* ]] || return 0
  (
    log=$work/log.$((passed + failed))
    # What the test has left running behind it, when it fails above all.
    trap 'jobs -p | xargs -r kill 2>/dev/null' EXIT
    "$@"
  )
  status=$?
  # Nothing of one test may live on in the next.
  for started in "$work"/*.pid; do
    [[ ! -f $started ]] || { kill "$(cat "$started")" 2>/dev/null && rm "$started"; }
  done
  slurm scancel --user=root >/dev/null 2>&1
  wait_for "$silent" queue_empty || printf '    jobs of this test are still there\n'
  if ((status == 0)); then
    ((++passed))
    printf 'ok    %s (%ss)\n' "$sentence" $((SECONDS - start))
  else
    ((++failed))
    printf 'FAILED %s\n' "$sentence"
  fi
}

# shellcheck disable=SC1090  # the test file
source "$file"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && passed > 0))
