# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
# What a site differs in, as assignments only. Copy to env/<site>.sh and submit with SLUICE_SITE=<site>; what the job's environment
# already holds wins. docs/add-a-cluster.md goes through it with an example.
SITE_MODULES=${SITE_MODULES:-}                # modules to load, in order, separated by blanks
SITE_MPI=${SITE_MPI:-auto}                    # srun --mpi: a name from `srun --mpi=list`; auto takes pmix where it is listed
SITE_SRUN_OPTIONS=${SITE_SRUN_OPTIONS:-}      # further options of the step, separated by blanks
SITE_SCRATCH=${SITE_SCRATCH:-}                # folder for building (compile.sh); empty: SLURM_TMPDIR, else build/ of the source tree
SITE_INTERFACE=${SITE_INTERFACE:-}            # network interface between nodes, for MPI and NCCL; empty: they choose
SITE_NODE_INTERNET=${SITE_NODE_INTERNET:-yes} # whether compute nodes reach the internet: yes or no
