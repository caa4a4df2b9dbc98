#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The job scripts against a srun that only says how it was called: geometry from the variables that Slurm's versions set.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/bin" "$work/release/bin"
cat >"$work/bin/srun" <<'SRUN'
#!/bin/bash
[[ $1 != --help ]] || { echo "${FAKE_HELP:-srun}"; exit 0; }
[[ $1 != --mpi=list ]] || { echo "MPI plugin types are... ${FAKE_MPI-none pmix}" >&2; exit 0; }
[[ -z ${FAKE_SECONDS:-} ]] || trap 'echo got USR1; kill %1; exit 9' USR1
echo "srun $*"
env | grep -E '^(SLURM|PMIX|OMPI|PMI|SRUN)_'
[[ -z ${FAKE_SECONDS:-} ]] || { sleep "$FAKE_SECONDS" & wait; }
exit "${FAKE_EXIT:-0}"
SRUN
cat >"$work/bin/scontrol" <<'SCONTROL'
#!/bin/bash
echo "scontrol $*" >>"$FAKE_CALLS"
[[ $* != *show* ]] || echo "JobId=1 PreemptTime=${FAKE_PREEMPT:-None} Requeue=1"
[[ $1 != requeue ]] || { [[ -z ${FAKE_NO_REQUEUE:-} ]] || exit 1; kill "$PPID"; }
SCONTROL
cat >"$work/bin/squeue" <<'SQUEUE'
#!/bin/bash
[[ $* != *"-j 70 "* ]] || echo PENDING # the number of the array's last task means all of them
echo "${FAKE_STATE:-RUNNING}"
SQUEUE
cat >"$work/release/bin/sluice" <<'SLUICE'
#!/bin/bash
echo "sluice $*"
[[ $* != "keep --enter"* ]] || exit "${FAKE_ENTER:-0}"
[[ $* != "keep --now"* ]] || exit "${FAKE_NOW:-1}"
SLUICE
chmod +x "$work"/bin/* "$work/release/bin/sluice"

failed=0
# check SENTENCE PATTERN|!PATTERN... -- NAME=VALUE... [SCRIPT]: runs the script in exactly these variables.
check() {
  local sentence=$1 pattern patterns=() script=slurm/serve.sh
  shift
  while [[ $1 != -- ]]; do
    patterns+=("$1")
    shift
  done
  shift
  if (($# > 0)) && [[ ${!#} == slurm/* ]]; then
    script=${!#}
    set -- "${@:1:$#-1}"
  fi
  out=$(env -i "PATH=$work/bin:/usr/bin:/bin" "RELEASE_DIR=$work/release" "SLURM_SUBMIT_DIR=$PWD" "FAKE_CALLS=$work/calls" "$@" bash "$script" 2>&1)
  code=$?
  out+=" exit=$code"
  for pattern in "${patterns[@]}"; do
    if [[ $pattern == !* ]]; then
      [[ $out != *"${pattern#!}"* ]] && continue
    else
      [[ $out == *"$pattern"* ]] && continue
    fi
    printf 'FAILED %s: %s\n%s\n' "$sentence" "$pattern" "$out"
    failed=1
    return
  done
  printf 'ok    %s\n' "$sentence"
}

check "a download outside Slurm becomes the program" "sluice download" "exit=0" -- MODEL_ID=org/model slurm/download.sh
check "a download job runs on its own node" "sluice download" "!srun" "exit=0" -- SLURM_JOB_ID=77 MODEL_ID=org/model slurm/download.sh
check "a download without a model says what to set" "MODEL_ID=ORG/NAME" "exit=2" -- SLURM_JOB_ID=77 slurm/download.sh
check "a site without internet on its nodes is told" "login or data node" -- SLURM_JOB_ID=77 MODEL_ID=org/model SITE_NODE_INTERNET=no slurm/download.sh

sentence="every job script appends to its log, may be requeued and hears of its end"
for script in slurm/{serve,generate,download}.sh; do
  for option in --open-mode=append --requeue --signal=B:TERM@; do
    grep -q "^#SBATCH $option" "$script" || {
      echo "FAILED $sentence: $script lacks $option"
      failed=1
    }
  done
done

job=(SLURM_JOB_ID=77 SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=n1)
check "a job without a task count starts one task" "--kill-on-bad-exit=1 --wait=60" "--nodes=1 --ntasks=1 --mpi=none" "!--cpus-per-task" "bin/sluice serve" "exit=0" -- "${job[@]}"
check "two nodes without a task count start one task each" "--nodes=2 --ntasks=2 --mpi=pmix" -- "${job[@]}" SLURM_JOB_NUM_NODES=2
check "-c reaches the step" "--ntasks=2 --cpus-per-task=6" -- "${job[@]}" SLURM_NTASKS=2 SLURM_CPUS_PER_TASK=6
check "one task with two GPUs becomes two tasks with half the CPUs" "--ntasks-per-node=2 --ntasks=2 --cpus-per-task=12 --gpus-per-node=2" -- \
  "${job[@]}" SLURM_NTASKS=1 SLURM_CPUS_PER_TASK=24 SLURM_CPUS_ON_NODE=24 SLURM_GPUS_PER_TASK=2 SLURM_GPUS_ON_NODE=2
check "typed GPU requests count" "--ntasks=2 " "--gpus-per-node=2" -- \
  "${job[@]}" SLURM_NTASKS=1 SLURM_CPUS_ON_NODE=4 SLURM_GPUS_PER_TASK=a100l:2 SLURM_TRES_PER_TASK=cpu=4,gres/gpu:a100l=2 SLURM_GPUS_ON_NODE=2
check "--gpus over two nodes becomes a task for each" "--ntasks-per-node=2 --ntasks=4" -- \
  "${job[@]}" SLURM_JOB_NUM_NODES=2 SLURM_GPUS=4 SLURM_CPUS_ON_NODE=8 SLURM_GPUS_ON_NODE=2
check "a salloc shell knows its GPUs by the request" "--ntasks=4 " "--gpus-per-node=4" -- "${job[@]}" SLURM_NTASKS=1 SLURM_GPUS_PER_NODE=h100:4 SLURM_CPUS_ON_NODE=8
check "as many tasks as GPUs stay as they are" "--ntasks=4 --cpus-per-task=3 --gpus-per-node=4" "!--ntasks-per-node" -- \
  "${job[@]}" SLURM_NTASKS=4 SLURM_CPUS_PER_TASK=3 SLURM_GPUS_ON_NODE=4 SLURM_GPUS_PER_TASK=1
check "uneven GPUs with a task each keep their own request" "--ntasks=3" "!--gpus-per-node" "SLURM_GPUS_PER_TASK=1" -- \
  "${job[@]}" SLURM_JOB_NUM_NODES=2 SLURM_NTASKS=3 SLURM_GPUS_ON_NODE=2 SLURM_GPUS_PER_TASK=1
check "uneven GPUs without tasks are refused with the request that works" "--ntasks=3 --gpus-per-task=1" "exit=2" -- \
  "${job[@]}" SLURM_JOB_NUM_NODES=2 SLURM_NTASKS=1 SLURM_GPUS=3 SLURM_GPUS_ON_NODE=2
check "what srun would take for its own options is gone" "!SLURM_NTASKS=" "!SLURM_GPUS_PER" "!SLURM_CPUS_PER_TASK" "!SLURM_TRES" "!SLURM_GPU_BIND" "SLURM_EXPORT_ENV=ALL" -- \
  "${job[@]}" SLURM_NTASKS=1 SLURM_CPUS_PER_TASK=4 SLURM_CPUS_ON_NODE=4 SLURM_GPUS_PER_TASK=2 SLURM_GPUS_ON_NODE=2 SLURM_TRES_PER_TASK=gres/gpu:2 \
  SLURM_GPU_BIND=per_task:2 SLURM_EXPORT_ENV=MODEL_ID=x
check "rank variables of the submitting step are gone" "!PMIX_" "!OMPI_COMM" "!SLURM_STEP_" -- \
  "${job[@]}" PMIX_RANK=0 PMIX_NAMESPACE=slurm.pmix.3.0 OMPI_COMM_WORLD_RANK=1 SLURM_STEP_NUM_TASKS=2
check "a shell inside a step overlaps with it" "--overlap" -- "${job[@]}" SLURM_STEP_ID=0 SLURM_TASK_PID=1
check "the interactive step of salloc needs no overlap" "!--overlap" "--ntasks=1" -- "${job[@]}" SLURM_STEP_ID=4294967290 SLURM_TASK_PID=1
check "a site without PMIx gets its own default" "--ntasks=2" "!--mpi" -- "${job[@]}" SLURM_NTASKS=2 "FAKE_MPI=none pmi2"
check "a site's choices are used" "--mpi=cray_shasta --gres-flags=allow-task-sharing --time=5" -- "${job[@]}" SLURM_NTASKS=2 SITE_MPI=cray_shasta \
  "SITE_SRUN_OPTIONS=--gres-flags=allow-task-sharing --time=5"
check "modules without a module command are refused" "no module command" "exit=2" -- "${job[@]}" SITE_MODULES=gcc/12
check "without Slurm the script becomes the program" "sluice serve exit=0" "!srun" -- SLURM_SUBMIT_DIR=/nowhere
check "the step's exit code is the job's" "exit=3" -- "${job[@]}" FAKE_EXIT=3
check "a preempted server asks to come back" "preempted" "exit=143" -- "${job[@]}" FAKE_PREEMPT=2026-01-01T00:00:00
check "a preempted server with a wrong setting does not" "!queue" "exit=2" -- "${job[@]}" FAKE_EXIT=2 FAKE_PREEMPT=2026-01-01T00:00:00
check "a job of a service takes its place there before its ranks start" "sluice keep --enter slurm/serve.sh" "bin/sluice serve" "exit=0" -- "${job[@]}" SLUICE_SERVICE=demo
check "a job that a service refuses starts no rank" "!srun --" "exit=2" -- "${job[@]}" SLUICE_SERVICE=demo FAKE_ENTER=2
check "prompts are no service" "!sluice keep" -- "${job[@]}" SLUICE_SERVICE=demo OUTPUT=o slurm/generate.sh
check "a preempted server of a service goes on as its next job" "sluice keep --now slurm/serve.sh" "!back into the queue" "exit=0" -- \
  "${job[@]}" SLUICE_SERVICE=demo FAKE_PREEMPT=2026-01-01T00:00:00 FAKE_NOW=0
check "a preempted server of a service that has no next job comes back itself" "sluice keep --now slurm/serve.sh" "back into the queue: preempted" "exit=143" -- \
  "${job[@]}" SLUICE_SERVICE=demo FAKE_PREEMPT=2026-01-01T00:00:00 FAKE_NOW=1
check "prompts that are left put the job back" "back into the queue" "exit=143" -- "${job[@]}" FAKE_EXIT=75 OUTPUT=o slurm/generate.sh
check "a cancelled job is not put back" "!back into the queue" "submit the same line again" "exit=75" -- "${job[@]}" FAKE_EXIT=75 FAKE_STATE=COMPLETING OUTPUT=o slurm/generate.sh
check "where requeueing is off the job says how to go on" "submit the same line again to complete o" "exit=75" -- \
  "${job[@]}" FAKE_EXIT=75 FAKE_NO_REQUEUE=1 OUTPUT=o slurm/generate.sh
: >"$work/calls"
check "an array task is requeued under its array's name" "exit=143" -- "${job[@]}" FAKE_EXIT=75 SLURM_JOB_ID=70 SLURM_ARRAY_JOB_ID=70 SLURM_ARRAY_TASK_ID=3 OUTPUT=o slurm/generate.sh
grep -qx 'scontrol requeue 70_3' "$work/calls" || {
  echo "FAILED the array's name"
  failed=1
}

# Containers: what is rendered, on a machine without them.
mkdir -p "$work/models/m" "$work/home" "$work/cache/models--o--n/snapshots/abc" "$work/cache/models--o--n/blobs" "$work/in" "$work/answers" "$work/apptainer"
printf '#!/bin/bash\necho "apptainer $*"\n' >"$work/apptainer/apptainer"
chmod +x "$work/apptainer/apptainer"
image=(CONTAINER_IMAGE=/images/sluice.sif "SLUICE_HOME=$work/home" "HF_HOME=$work/none" "HOME=$work")
check "pyxis gets the image, the model and the home as mounts of the same name, and no MPI" "srun --container-image=/images/sluice.sif" \
  "--container-mounts=$work/models/m:$work/models/m,$work/home:$work/home" "--container-workdir=/" "--mpi=none" " sluice serve" "!release/bin" "exit=0" -- \
  "${job[@]}" "${image[@]}" SLURM_NTASKS=2 "MODEL_ID=$work/models/m" "FAKE_HELP= --container-image=[USER@]IMAGE"
check "a snapshot of the hub's cache brings its blobs" "$work/cache/models--o--n/snapshots/abc:" ",$work/cache/models--o--n:" -- \
  "${job[@]}" "${image[@]}" "MODEL_ID=$work/cache/models--o--n/snapshots/abc" CONTAINER_RUNTIME=pyxis
check "Apptainer wraps the program, with GPUs where the job has some" " apptainer exec --bind $work/models/m,$work/home,$work/in,$work/answers,/data:/data:ro --nv /images/sluice.sif sluice generate" \
  "!--container-image" "exit=0" -- "${job[@]}" "${image[@]}" "MODEL_ID=$work/models/m" "PROMPTS=$work/in/p" "OUTPUT=$work/answers/o" CONTAINER_MOUNTS=/data:/data:ro \
  CONTAINER_RUNTIME=apptainer SLURM_GPUS_ON_NODE=1 SLURM_NTASKS=1 slurm/generate.sh
check "without GPUs Apptainer gets no --nv, and another program's name is used" "apptainer exec --bind $work/home /images/sluice.sif /opt/sluice/bin/sluice serve" "!--nv" -- \
  "${job[@]}" "${image[@]}" CONTAINER_RUNTIME=apptainer CONTAINER_BINARY=/opt/sluice/bin/sluice
check "without Slurm Apptainer runs the program here" "apptainer exec --bind $work/home /images/sluice.sif sluice serve" "!srun" "exit=0" -- \
  "${image[@]}" "PATH=$work/apptainer:$work/bin:/usr/bin:/bin" SLURM_SUBMIT_DIR=/nowhere
check "an image without anything that runs it is refused with what to do" "neither apptainer nor singularity" "exit=2" -- "${job[@]}" "${image[@]}"
check "an unknown runtime is refused by name" "CONTAINER_RUNTIME=docker" "exit=2" -- "${job[@]}" "${image[@]}" CONTAINER_RUNTIME=docker

chmod -x "$work/release/bin/sluice"
check "a program that lost its exec bit is named with the cure" "chmod +x $work/release/bin/sluice" "exit=2" -- "${job[@]}"

# A signal to the script reaches srun as USR1, and the script waits for what srun says.
chmod +x "$work/release/bin/sluice"
env -i "PATH=$work/bin:/usr/bin:/bin" "RELEASE_DIR=$work/release" "FAKE_CALLS=$work/calls" FAKE_SECONDS=30 "${job[@]}" bash slurm/serve.sh >"$work/out" 2>&1 &
for _ in {1..300}; do
  ! grep -q '^srun' "$work/out" || break
  sleep 0.1
done
kill -TERM $!
wait $!
code=$?
if [[ $code == 9 && $(cat "$work/out") == *"got USR1"* ]]; then
  echo "ok    TERM to the script is USR1 to srun, whose exit code counts"
else
  printf 'FAILED TERM to the script: exit %s\n' "$code"
  cat "$work/out"
  failed=1
fi
exit "$failed"
