#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# mpi_test.sh PROGRAM MODULE: the collectives over MPI under mpirun, and what happens without it.
set -euo pipefail
program=$1
export SLUICE_MPI_MODULE=$2

if ! command -v mpirun >/dev/null; then
  echo "SKIPPED: mpirun is not installed; MPI collectives are not tested on this machine" >&2
  exit 77
fi

SLUICE_MPI_CHECK_DIR=$(mktemp -d)
export SLUICE_MPI_CHECK_DIR SLUICE_MPI_CHECK_RUN=$$
export ASAN_OPTIONS=detect_leaks=0 # MPI libraries keep what they allocate
trap 'rm -rf "$SLUICE_MPI_CHECK_DIR"' EXIT

options=()
if [[ $(mpirun --version) == *"Open MPI"* || $(mpirun --version) == *OpenRTE* ]]; then
  options=(--oversubscribe --bind-to none)
  [[ $(id -u) == 0 ]] && options+=(--allow-run-as-root)
fi

mpi_test::run() {
  local -r ranks=$1
  shift
  timeout 250 mpirun -n "$ranks" "${options[@]}" "$program" "$@"
}

mpi_test::expect() {
  local -r what=$1 found=$2
  if [[ $found != *"$what"* ]]; then
    echo "expected '$what', found: $found" >&2
    exit 1
  fi
}

mpi_test::run 2 2 1
mpi_test::run 3 3 1
mpi_test::run 4 2 2
# As between hosts: over TCP a long message needs its sender to move it on.
OMPI_MCA_btl=tcp,self mpi_test::run 2 1 2

# A module that is not there, and one that is none, are named.
found=$(SLUICE_MPI_MODULE=/nonexistent/sluice_mpi.so mpi_test::run 2 2 1 2>&1) && exit 1
mpi_test::expect "not found at /nonexistent/sluice_mpi.so" "$found"
found=$(SLUICE_MPI_MODULE=$program mpi_test::run 2 2 1 2>&1) && exit 1
mpi_test::expect "cannot load the MPI module" "$found"

# Ranks without an MPI launcher are refused before MPI could hang or come up alone.
found=$(SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 \
  SLURM_STEP_NUM_NODES=1 SLURM_STEP_NODELIST=n1 SLURM_JOB_NODELIST=n1 SLURM_STEP_TASKS_PER_NODE=2 SLURM_MPI_TYPE=none \
  "$program" 2 1 2>&1) && exit 1
mpi_test::expect "srun --mpi=pmix" "$found"
