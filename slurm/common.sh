# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Shared by the job scripts, which set `root` (the release or the source tree) before they source it.

job::log() { printf 'sluice: %s\n' "$*" >&2; }
job::err() {
  printf 'sluice: error: %s\n' "$*" >&2
  exit 2
}

# `sbatch --export=MODEL_ID=...` without ALL leaves the steps without PATH, HOME and modules, and SLURM_EXPORT_ENV hands that on to srun.
job::repair() {
  local name
  export SLURM_EXPORT_ENV=ALL SRUN_EXPORT_ENV=ALL
  for name in /usr/local/bin /usr/bin /bin; do
    [[ ":${PATH:-}:" == *":$name:"* ]] || PATH=${PATH:+$PATH:}$name
  done
  export PATH USER=${USER:-$(id -un)}
  # Where this job's output goes, for the record: `sluice logs` shows it.
  name=$(readlink "/proc/$$/fd/1") && [[ -f $name ]] && export SLUICE_LOG=${SLUICE_LOG:-$name}
  export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
}

# Takes the site's values, from env/<site>.sh or from the script itself, and loads the modules that they name.
job::site() {
  local file init sites
  sites=("$root"/env/*.sh)
  file=$root/env/${SLUICE_SITE:-generic}.sh
  if declare -F site::values >/dev/null; then
    site::values
  else
    [[ -f $file ]] || job::err "SLUICE_SITE=${SLUICE_SITE:-generic}: no such file $file; known are: $(basename -s .sh "${sites[@]}" | xargs)"
    # shellcheck source=env/generic.sh
    source "$file"
  fi
  if [[ -n ${SITE_INTERFACE:-} ]]; then
    export OMPI_MCA_btl_tcp_if_include=${OMPI_MCA_btl_tcp_if_include:-$SITE_INTERFACE} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-=$SITE_INTERFACE}
  fi
  [[ -n $SITE_MODULES ]] || return 0
  for init in /etc/profile.d/{lmod,z00_lmod,modules}.sh "${LMOD_PKG:-}/init/bash" "${MODULESHOME:-}/init/bash"; do
    declare -F module >/dev/null && break
    # shellcheck disable=SC1090  # the site's
    [[ -f $init ]] && source "$init"
  done
  declare -F module >/dev/null || job::err "env/${SLUICE_SITE:-generic}.sh asks for modules ($SITE_MODULES) but this node has no module command"
  # shellcheck disable=SC2086  # a list
  module load $SITE_MODULES || job::err "module load $SITE_MODULES failed; correct SITE_MODULES in $file"
}

# Sets `binary`: `sluice_program`, where the script names one, else that of the release or the tree.
job::binary() {
  for binary in ${sluice_program:+"$sluice_program"} ${RELEASE_DIR:+"$RELEASE_DIR/bin/sluice"} "$root/bin/sluice" "$root/build/cpu/sluice" "$(command -v sluice)"; do
    [[ -e $binary ]] || continue
    [[ -x $binary ]] || job::err "$binary has lost its permission to run, as copying can do; run: chmod +x $binary"
    return 0
  done
  job::err "no sluice program: set RELEASE_DIR to an installed release, or build one in $root with: cmake --preset cpu && cmake --build --preset cpu"
}

# "2", "a100:2" or "a100:1,h100:1": the sum.
job::count() {
  local item sum=0
  for item in ${1//,/ }; do ((sum += ${item##*:})); done
  echo "$sum"
}

# Sets `options`, the geometry of the step: the job's tasks, or one task per GPU where the job has more GPUs than tasks
# (--gpus-per-task=2 with one task), with the CPUs divided. GPUs are asked for per node, so that every rank sees its neighbours'.
job::geometry() {
  local nodes=${SLURM_JOB_NUM_NODES:-1} cpus=${SLURM_CPUS_PER_TASK:-0} name tasks gpus total
  tasks=${SLURM_NTASKS:-$nodes}
  gpus=$(job::count "${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE:-0}}")
  total=$((gpus * nodes))
  [[ -z ${SLURM_GPUS:-} ]] || total=$(job::count "$SLURM_GPUS")
  [[ -z ${SLURM_GPUS_PER_TASK:-} ]] || total=$(($(job::count "$SLURM_GPUS_PER_TASK") * tasks))
  ((gpus > 0 || total % nodes > 0)) || gpus=$((total / nodes))
  options+=(--kill-on-bad-exit=1 --wait=60 "--nodes=$nodes")
  if ((total > tasks)); then
    ((total == gpus * nodes)) || job::err "this job has $total GPUs unevenly on $nodes nodes and $tasks tasks; submit with --ntasks=$total --gpus-per-task=1"
    tasks=$total
    cpus=$((${SLURM_CPUS_ON_NODE:-gpus} / gpus))
    ((cpus > 0)) || options+=(--overcommit)
    options+=("--ntasks-per-node=$gpus")
    job::log "more GPUs than tasks: starting one task per GPU, $tasks in all"
  fi
  options+=("--ntasks=$tasks")
  ((cpus == 0)) || options+=("--cpus-per-task=$cpus")
  if ((total > 0 && total == gpus * nodes)); then
    options+=("--gpus-per-node=$gpus")
    unset SLURM_GPUS SLURM_GPUS_PER_TASK SLURM_GPUS_PER_NODE SLURM_GPU_BIND SLURM_TRES_BIND
  fi
  # srun takes these for its own options.
  unset SLURM_NTASKS SLURM_NPROCS SLURM_NTASKS_PER_NODE SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK SLURM_TRES_PER_TASK SLURM_STEP_GRES
  # A job submitted from inside a step inherits that step's rank variables, which here describe nobody.
  for name in "${!SLURM_STEP@}" "${!PMIX_@}" "${!PMI_@}" "${!OMPI_COMM_WORLD_@}"; do unset "$name"; done
  if [[ $SITE_MPI != auto ]]; then
    options+=("--mpi=$SITE_MPI")
  elif ((tasks == 1)); then
    options+=(--mpi=none) # one rank has nobody to talk to
  elif [[ $(srun --mpi=list 2>&1) == *pmix* ]]; then
    options+=(--mpi=pmix)
  fi
  # shellcheck disable=SC2206  # a list
  options+=($SITE_SRUN_OPTIONS)
}

# job::watch PID: ends an srun that waits for nothing. Where a cut link has taken the word of a rank's end with it, srun waits for that rank for
# ever and the job keeps its nodes. Ranks leave together: srun is ended where this node has had no part of the step for 45 s.
job::watch() {
  local gone=0 seen="" pause=""
  trap 'kill "$pause" 2>/dev/null; exit' TERM
  while :; do
    sleep 5 &
    pause=$!
    wait "$pause"
    if pgrep -f "^slurmstepd: \\[$SLURM_JOB_ID\\.[0-9]" >/dev/null; then
      seen=1 gone=0
    elif [[ -n $seen ]] && ((++gone == 9)); then
      job::log "the ranks here ended 45 s ago and srun waits for others whose end it did not hear of: ending it"
      kill -TERM "$1"
    elif ((gone == 18)); then
      kill -KILL "$1"
    fi
  done
}

# job::step COMMAND...: runs it as a step, hands TERM and INT on, returns the step's exit code. The signal goes on as USR1, which srun
# passes to the tasks and which sluice takes as TERM; on TERM itself srun kills them at once.
job::step() {
  local answer code=127 pid="" signalled="" watch
  trap 'signalled=1; [[ -z $pid ]] || kill -USR1 "$pid" 2>/dev/null' TERM INT USR1
  srun "${options[@]}" "$@" &
  pid=$!
  [[ -z $signalled ]] || kill -USR1 "$pid" # it came before there was somebody to hand it to
  job::watch "$pid" &
  watch=$!
  while :; do
    signalled=""
    wait "$pid"
    answer=$?
    ((answer == 127)) || code=$answer # 127: its status was taken already
    [[ -n $signalled ]] || break      # a signal interrupts wait, whose answer is then not the step's
  done
  kill "$watch" 2>/dev/null
  trap - TERM INT USR1
  return "$code"
}

# job::alone COMMAND...: runs it on the batch node itself, hands TERM and INT on, returns its exit code.
job::alone() {
  local code=127 pid="" signalled=""
  trap 'signalled=1; [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null' TERM INT
  "$@" &
  pid=$!
  [[ -z $signalled ]] || kill -TERM "$pid"
  while :; do
    signalled=""
    wait "$pid"
    code=$?
    [[ -n $signalled ]] || break # a signal interrupts wait, whose answer is then not the program's
  done
  trap - TERM INT
  return "$code"
}

# This job as Slurm's commands know it alone: the number of one task of an array is the whole array's.
job::id() { echo "${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"; }

# Whether Slurm is taking this job's nodes for another. The job must then not end by itself: one that does counts as finished.
job::preempted() { [[ $(scontrol -o show job "$(job::id)" 2>/dev/null) =~ PreemptTime=[0-9] ]]; }

# job::requeue REASON: puts this job back in the queue and waits for Slurm to end it here; returns where that is not possible.
job::requeue() {
  local id most=${MAX_RESTARTS:-50}
  id=$(job::id)
  # A job that its owner cancels is no longer running and must not come back.
  [[ $(squeue -h -j "$id" -o %T 2>/dev/null) == RUNNING ]] || return 1
  if ((${SLURM_RESTART_COUNT:-0} >= most)); then
    job::log "not requeued: restarted $most times already (MAX_RESTARTS)"
    return 1
  fi
  job::log "back into the queue: $1"
  scontrol requeue "$id" || return 1
  sleep 300
}

# job::start VERB ARGUMENT...: a job script but for its ending. From a batch job or an allocation's shell it starts the ranks as a step;
# as a task of srun, or without Slurm, it becomes the rank.
job::start() {
  local program inside=${SLURM_STEP_ID:-} options=()
  ((${inside:--1} >= 0 && ${inside:--1} < 4294967280)) || inside="" # the interactive step of salloc: its resources are free for others
  job::repair
  job::site
  if [[ -n ${CONTAINER_IMAGE:-} ]]; then
    # shellcheck source=slurm/container.sh
    declare -F container::program >/dev/null || source "$root/slurm/container.sh" || job::err "CONTAINER_IMAGE is set, but this script was written without it and $root/slurm/container.sh is not there; unset it, or write the script again with CONTAINER_IMAGE set"
    container::program
    # PMIx keeps its sockets outside the image; ranks need no MPI.
    [[ $SITE_MPI != auto ]] || SITE_MPI=none
  else
    job::binary
    program=("$binary")
  fi
  if [[ -z ${SLURM_JOB_ID:-} ]]; then
    ((${#options[@]} == 0)) || job::err "pyxis is part of srun: outside a Slurm job set CONTAINER_RUNTIME=apptainer"
    exec "${program[@]}" "$@"
  fi
  # A batch script may have inherited a step's variables; its name in the spool folder tells.
  if [[ -n $inside && ${0##*/} != slurm_script ]]; then
    [[ ${SLURM_TASK_PID:-} != "$$" ]] || exec "${program[@]}" "$@"
    options+=(--overlap) # a shell in a step: without it a step inside would wait for that one to end
  fi
  command -v srun >/dev/null || job::err "this is Slurm job $SLURM_JOB_ID but srun is not on PATH; name its module in $root/env/${SLUICE_SITE:-generic}.sh"
  job::keep "$1"
  job::geometry
  job::log "job $SLURM_JOB_ID on ${SLURM_JOB_NODELIST:-unknown nodes}: srun ${options[*]} ${program[*]} $*"
  job::step "${program[@]}" "$@"
}

# job::serve ARGUMENT...: a serving job from beginning to end.
job::serve() {
  local code keeper=""
  job::start serve "$@"
  code=$?
  [[ -z $keeper ]] || kill "$keeper" 2>/dev/null
  # A preempted server comes back elsewhere: as its service's next job, which need not wait as Slurm makes requeued ones wait, else requeued.
  # One that reached its time limit or was stopped does not.
  if ((code != 2)) && job::preempted; then
    { [[ -n $keeper ]] && "$binary" keep --now "$0"; } || job::requeue "preempted"
  fi
  exit "$code"
}

# A job of a service (SLUICE_SERVICE) has a keeper beside its ranks, which submits this script again before the time runs out.
job::keep() {
  [[ -n ${SLUICE_SERVICE:-} && $1 == serve ]] || return 0
  [[ -z ${CONTAINER_IMAGE:-} ]] || job::err "a service (SLUICE_SERVICE=$SLUICE_SERVICE) runs on the node itself; unset CONTAINER_IMAGE, or launch without --name and --keep-alive"
  "$binary" keep --enter "$0" || exit
  "$binary" keep "$0" &
  keeper=$!
}
