#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds a release into RELEASE_DIR: sbatch -c8 --export=ALL,RELEASE_DIR=$HOME/sluice-release slurm/compile.sh
# or without Slurm: RELEASE_DIR=... bash slurm/compile.sh. Settings are environment variables:
#   RELEASE_DIR   where the release goes; one that is there becomes RELEASE_DIR.previous when the new one is complete
#   SLUICE_SITE   env/<site>.sh: compiler, MPI and CUDA modules, scratch folder
#   SLUICE_CUDA   ON or OFF: with the CUDA module; default: ON where there is nvcc, by the modules or CUDA_HOME
#SBATCH --job-name=sluice-compile
#SBATCH --open-mode=append
#SBATCH --requeue
set -uo pipefail

# Under Slurm this file is a copy in a spool folder: its own place says nothing there.
from=${SLURM_SUBMIT_DIR:-$PWD}
[[ -n ${SLURM_JOB_ID:-} ]] || from=$(dirname "${BASH_SOURCE[0]}")
for root in "$from" "$from/.." "$PWD"; do
  [[ ! -f $root/CMakeLists.txt || ! -f $root/slurm/common.sh ]] || break
done
# shellcheck source=slurm/common.sh
source "$root/slurm/common.sh" || {
  echo "sluice: error: slurm/common.sh not found; submit from the source tree, which is what this script compiles" >&2
  exit 2
}
[[ -f $root/CMakeLists.txt ]] || job::err "$root is not the source tree; submit from there"
root=$(cd "$root" && pwd)

job::repair
job::site
[[ -n ${RELEASE_DIR:-} ]] || job::err "RELEASE_DIR is not set: submit with --export=ALL,RELEASE_DIR=\$HOME/sluice-release"
[[ $RELEASE_DIR == /* ]] || RELEASE_DIR=$PWD/$RELEASE_DIR
RELEASE_DIR=${RELEASE_DIR%/}
# Never in the place of something else.
if [[ -e $RELEASE_DIR && ! -f $RELEASE_DIR/MANIFEST && -n $(ls -A "$RELEASE_DIR" 2>&1) ]]; then
  job::err "RELEASE_DIR=$RELEASE_DIR holds something that is no release; name a new folder"
fi
for program in cmake c++ "$(command -v ninja || echo make)"; do
  command -v "$program" >/dev/null || job::err "no $program on $(hostname); name its module in $root/env/${SLUICE_SITE:-generic}.sh (SITE_MODULES)"
done

scratch=${SITE_SCRATCH:-${SLURM_TMPDIR:-$root/build}}
mkdir -p "$scratch" "$(dirname "$RELEASE_DIR")" || job::err "cannot make the folders $scratch and $(dirname "$RELEASE_DIR")"
work=$(mktemp -d "$scratch/compile-XXXXXX") || job::err "cannot write to $scratch; set SITE_SCRATCH"
new=$RELEASE_DIR.new.$$
trap 'rm -rf "$work" "$new"' EXIT
trap 'exit 143' TERM INT

jobs=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-$(nproc)}}
generator=()
! command -v ninja >/dev/null || generator=(-G Ninja)
cuda=OFF
! { command -v nvcc || [[ -x ${CUDA_HOME:-}/bin/nvcc ]]; } >/dev/null || cuda=ON
cuda=${SLUICE_CUDA:-$cuda}
[[ $cuda == ON ]] || job::log "without CUDA: no nvcc, or SLUICE_CUDA=OFF; for GPUs name a CUDA module in SITE_MODULES"
job::log "compiling $root with $jobs jobs in $work for $RELEASE_DIR"
cmake -S "$root" -B "$work/build" "${generator[@]}" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSLUICE_TESTS=OFF -DSLUICE_CUDA="$cuda" ||
  job::err "configuring failed; the lines above name what is missing: add its module to env/${SLUICE_SITE:-generic}.sh (SITE_MODULES) or set CMAKE_PREFIX_PATH"
cmake --build "$work/build" -j "$jobs" || job::err "compiling failed; the lines above say why"
cmake --install "$work/build" --prefix "$new" >/dev/null || job::err "installing into $new failed; is the file system full?"

# The new release must start before it takes the other's place.
"$new/bin/sluice" --version || job::err "the new release does not start; $RELEASE_DIR is as it was"
bash "$new/scripts/verify-release.sh" "$new" || job::err "the new release is incomplete; $RELEASE_DIR is as it was"
if [[ -e $RELEASE_DIR ]]; then
  rm -rf "$RELEASE_DIR.previous"
  mv "$RELEASE_DIR" "$RELEASE_DIR.previous" || job::err "cannot rename $RELEASE_DIR"
fi
mv "$new" "$RELEASE_DIR" || {
  [[ ! -e $RELEASE_DIR.previous ]] || mv "$RELEASE_DIR.previous" "$RELEASE_DIR"
  job::err "cannot rename $new to $RELEASE_DIR"
}
if [[ ! -f $RELEASE_DIR/lib/sluice/sluice_mpi.so ]]; then
  job::log "no MPI was found: this release runs single ranks only. Name an MPI module in env/${SLUICE_SITE:-generic}.sh and compile again for more"
fi
job::log "release $(<"$RELEASE_DIR/VERSION") is in $RELEASE_DIR; serve with: sbatch --export=ALL,RELEASE_DIR=$RELEASE_DIR,MODEL_ID=... $RELEASE_DIR/slurm/serve.sh"
