# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Rank detection and the job scripts in real steps. A probe takes the place of the program (see probe.cpp).
readonly probe=$build/tests/slurm/cluster_probe
release=$work/release
mkdir -p "$release/bin"
cp "$probe" "$release/bin/sluice"
export RELEASE_DIR=$release

plain_srun() {
  slurm srun -N2 --ntasks-per-node=2 --mpi=none "$probe" >"$log" || fail "srun failed" "$log"
  has "$log" '"launcher":"slurm"' 4
  has "$log" '"world":4' 4
  has "$log" '"mpi_expected":false' 4
  for rank in 0 1 2 3; do has "$log" "\"rank\":$rank," 1; done
  has "$log" '"hosts":["n1","n2"]' 4
  has "$log" '"local_size":2' 4
}
it "srun without MPI gives every task its rank" plain_srun

pmix_srun() {
  slurm srun -N2 -n3 --mpi=pmix "$probe" >"$log" || fail "srun failed" "$log"
  has "$log" '"launcher":"pmix"' 3
  has "$log" '"mpi_expected":true' 3
  has "$log" '"local_size":2' 2
  has "$log" '"local_size":1' 1
}
it "srun with PMIx expects MPI, on nodes of different task counts" pmix_srun

pmi_srun() {
  slurm srun -N2 -n2 --mpi=pmi2 "$probe" >"$log" || fail "srun failed" "$log"
  has "$log" '"launcher":"pmi"' 2
  has "$log" '"rank":1,"world":2' 1
}
it "srun with PMI-2 gives rank and size" pmi_srun

cyclic_step() {
  slurm salloc -Q -N2 --ntasks-per-node=2 srun --mpi=none -m cyclic "$probe" >"$log" || fail "srun failed" "$log"
  has "$log" '"rank":2,"world":4,"local_rank":1,"local_size":2' 1
  [[ $(grep '"rank":2,' "$log") == *'"host":"n1"'* ]] || fail "rank 2 should be on n1" "$log"
}
it "cyclic placement is seen as it is" cyclic_step

subset_step() {
  slurm salloc -Q -N2 --ntasks-per-node=2 srun --mpi=none -N1 -n1 -w n2 "$probe" >"$log" || fail "srun failed" "$log"
  has "$log" '"hosts":["n2"]' 1
  has "$log" '"local_size":1' 1
}
it "a step on one node of two lists that node only" subset_step

mpirun_ranks() {
  slurm salloc -Q -N2 --ntasks-per-node=2 mpirun --allow-run-as-root "$probe" >"$log" || fail "mpirun failed" "$log"
  has "$log" '"launcher":"ompi"' 4
  for rank in 0 1 2 3; do has "$log" "\"rank\":$rank,\"world\":4" 1; done
  has "$log" '"hosts":["n1","n2"]' 4
  [[ $(grep -o '"run_id":"[^"]*"' "$log" | sort -u | wc -l) == 1 ]] || fail "the ranks disagree on the run" "$log"
}
it "mpirun in an allocation is believed before its daemon's step" mpirun_ranks

batch_shell() {
  printf '#!/bin/bash\n%s\n' "$probe" >"$work/job"
  submit "$log" -W -N2 -n4 "$work/job" >/dev/null
  has "$log" '"launcher":"single","rank":0,"world":1'
  has "$log" '"warnings":1'
}
it "a batch shell is one process and says that tasks are left" batch_shell

stale_step() {
  printf '#!/bin/bash\n%s\nsrun --mpi=none %s\n' "$probe" "$probe" >"$work/job"
  slurm srun --mpi=pmix -n1 sbatch -W -n2 -o "$log" "$work/job" >/dev/null
  has "$log" '"launcher":"slurm"' 3
  has "$log" '"mpi_expected":false' 3
  has "$log" '"rank":1,"world":2' 1
}
it "a job submitted from inside a step is not taken for that step's PMIx world" stale_step

two_tasks() {
  submit "$log" -W -N2 -n2 --export=ALL,MODEL_ID=a/b slurm/serve.sh >/dev/null || fail "the job failed" "$log"
  has "$log" '"launcher":"pmix"' 2
  has "$log" '"model":"a/b"' 2
  has "$log" '"arguments":["serve"]' 2
}
it "serve.sh starts the job's tasks with PMIx" two_tasks

stripped_export() {
  env -u HOME -u USER PROBE_MARKER=lost scripts/test-cluster.sh run sbatch -W --parsable -o "$log" -n2 --export=MODEL_ID=a/b,RELEASE_DIR="$release" slurm/serve.sh >/dev/null ||
    fail "the job failed" "$log"
  has "$log" '"model":"a/b"' 2
  has "$log" '"world":2' 2
  has "$log" "\"home\":\"$HOME\"" 2
}
it "serve.sh works with --export=MODEL_ID=... alone" stripped_export

no_export() {
  local tree=$work/tree
  mkdir -p "$tree/build/cpu"
  cp -r slurm env "$tree"
  cp "$probe" "$tree/build/cpu/sluice"
  (cd "$tree/slurm" && slurm sbatch -W -n2 -o "$log" --export=NONE serve.sh >/dev/null) || fail "the job failed" "$log"
  has "$log" '"world":2' 2
}
it "serve.sh finds the tree it was submitted from where the site exports nothing" no_export

gpus_per_task() {
  submit "$log" -W -n1 -c4 --gpus-per-task=2 slurm/serve.sh >/dev/null || fail "the job failed" "$log"
  has "$log" '"world":2' 2
  has "$log" '"cuda":"0,1"' 2
  has "$log" '"cpus_per_task":"2"' 2
}
it "one task with --gpus-per-task=2 becomes two ranks that see both GPUs" gpus_per_task

gpus_one_cpu() {
  submit "$log" -W -n1 --gpus-per-task=4 slurm/serve.sh >/dev/null || fail "the job failed" "$log"
  has "$log" '"world":4' 4
  has "$log" '"cuda":"0,1,2,3"' 4
}
it "more GPUs than CPUs still start one rank per GPU" gpus_one_cpu

gpus_two_nodes() {
  submit "$log" -W -N2 --gpus-per-node=2 slurm/serve.sh >/dev/null || fail "the job failed" "$log"
  has "$log" '"world":4' 4
  has "$log" '"local_size":2' 4
}
it "two nodes of two GPUs without a task count become four ranks" gpus_two_nodes

gpus_as_tasks() {
  submit "$log" -W -n2 --gpus-per-task=1 slurm/serve.sh >/dev/null || fail "the job failed" "$log"
  has "$log" '"world":2' 2
  has "$log" '"cuda":"0,1"' 2
}
it "--gpus-per-task=1 does not hide the neighbour's GPU" gpus_as_tasks

gpus_by_gres() {
  submit "$log" -W -n1 --gres=gpu:2 slurm/serve.sh >/dev/null || fail "the job failed" "$log"
  has "$log" '"world":2' 2
  has "$log" '"cuda":"0,1"' 2
}
it "--gres=gpu:2 with one task becomes two ranks" gpus_by_gres

interactive_shell() {
  slurm srun -n2 --mpi=none slurm/serve.sh >"$log" 2>&1 || fail "srun failed" "$log"
  has "$log" '"launcher":"slurm"' 2
  timeout 60 scripts/test-cluster.sh run srun -n1 --pty bash slurm/serve.sh >"$log" 2>&1 </dev/null || fail "the interactive step failed" "$log"
  has "$log" '"world":1' 1
  timeout 60 scripts/test-cluster.sh run srun -n1 bash -c 'bash slurm/serve.sh; true' >"$log" 2>&1 || fail "a shell in a step failed" "$log"
  has "$log" '"world":1' 1
}
it "serve.sh becomes the rank under srun and does not wait for its own step in a shell" interactive_shell

salloc_shell() {
  slurm salloc -Q -N2 -n2 bash slurm/serve.sh >"$log" 2>&1 || fail "salloc failed" "$log"
  has "$log" '"world":2' 2
}
it "serve.sh runs from a salloc shell" salloc_shell

no_slurm() {
  env -u SLURM_CONF bash slurm/serve.sh --extra >"$log" 2>&1 || fail "it failed" "$log"
  has "$log" '"launcher":"single"' 1
  has "$log" '"arguments":["serve","--extra"]' 1
}
it "serve.sh runs without Slurm" no_slurm

forwarded_term() {
  local job
  job=$(PROBE_SECONDS=60 PROBE_DRAIN_EXIT=0 submit "$log" -N2 -n2 slurm/serve.sh)
  wait_for 30 grep -q '"rank":1' "$log" || fail "the ranks did not start" "$log"
  pgrep -f "^slurmstepd: \\[$job\\.[0-9]" >/dev/null || fail "job::watch would not see the step" <(pgrep -af slurmstepd)
  slurm scancel --batch --signal=TERM "$job"
  wait_for 30 job_gone "$job" || fail "the job did not end" "$log"
  has "$log" '"drained":"USR1"' 2
  lacks "$log" 'forcing job termination'
}
it "TERM to the batch script reaches every rank without killing them" forwarded_term

preempted_server() {
  local job
  job=$(PROBE_SECONDS=120 PROBE_DRAIN_EXIT=0 submit "$log" -N2 -n2 -c8 slurm/serve.sh)
  wait_for 30 grep -q '"rank":1' "$log" || fail "the ranks did not start" "$log"
  slurm srun -p high -N2 -n2 -c8 sleep 3 || fail "the preemptor did not run" "$log"
  has "$log" '"drained":"TERM"' 2
  has "$log" 'back into the queue: preempted'
  wait_for 90 grep -q '"restart_count":1' "$log" || fail "the job did not come back: $(slurm scontrol -o show job "$job")" "$log"
}
it "a preempted server drains, gives way at once, and comes back" preempted_server

requeued_generate() {
  local job
  job=$(PROBE_SECONDS=60 PROBE_DRAIN_EXIT=75 OUTPUT=out submit "$log" -n2 slurm/generate.sh)
  wait_for 30 grep -q '"rank":1' "$log" || fail "the ranks did not start" "$log"
  slurm scancel --batch --signal=TERM "$job"
  wait_for 90 grep -q '"restart_count":1' "$log" || fail "the job did not come back: $(slurm scontrol -o show job "$job")" "$log"
  slurm scancel "$job"
  wait_for 30 job_gone "$job" || fail "a cancelled job came back" "$log"
}
it "generate.sh goes back into the queue while prompts are left, and not when cancelled" requeued_generate

restart_limit() {
  local job
  job=$(MAX_RESTARTS=0 PROBE_SECONDS=60 PROBE_DRAIN_EXIT=75 OUTPUT=out submit "$log" -n1 slurm/generate.sh)
  wait_for 30 grep -q '"rank":0' "$log" || fail "the rank did not start" "$log"
  slurm scancel --batch --signal=TERM "$job"
  wait_for 30 job_gone "$job" || fail "the job did not end" "$log"
  has "$log" 'restarted 0 times already'
  has "$log" 'submit the same line again to complete out'
}
it "generate.sh stops requeueing at MAX_RESTARTS and says how to go on" restart_limit

time_left() {
  slurm srun -n1 -t 10 "$probe" >"$log" || fail "srun failed" "$log"
  [[ $(cat "$log") =~ \"seconds_left\":([0-9]+) ]] || fail "no time left" "$log"
  ((BASH_REMATCH[1] > 500 && BASH_REMATCH[1] <= 600)) || fail "expected about 600 s" "$log"
}
it "squeue tells the time left" time_left

array_task() {
  submit "$log" -W --array=3 -n1 slurm/serve.sh >/dev/null || fail "the job failed" "$log"
  has "$log" '"launcher":"single"' 0
  has "$log" '"world":1' 1
}
it "an array task serves like a job" array_task

missing_site() {
  SLUICE_SITE=nowhere submit "$log" -W -n1 slurm/serve.sh >/dev/null && fail "expected a failure" "$log"
  has "$log" "no such file"
  has "$log" "known are: alliance generic mila"
}
it "an unknown site is refused with the known ones" missing_site
