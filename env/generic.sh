# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
# What a site differs in, as assignments only. Copy to env/<site>.sh and submit with SLUICE_SITE=<site>; what the job's environment
# already holds wins.
SITE_MODULES=${SITE_MODULES:-}           # modules to load, in order, separated by blanks
SITE_MPI=${SITE_MPI:-auto}               # srun --mpi: a name from `srun --mpi=list`; auto takes pmix where it is listed
SITE_SRUN_OPTIONS=${SITE_SRUN_OPTIONS:-} # further options of the step, separated by blanks
