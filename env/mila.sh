# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
# Mila. Partitions unkillable, short-unkillable (3 h), main and long; the last two preempt without notice and requeue. $SCRATCH is
# purged after 90 days; weights that everybody uses are under /network/weights. Typed GPUs: --gres=gpu:a100l:1, MIG slices by name.
SITE_MODULES=${SITE_MODULES:-} # `module spider openmpi` lists what there is; without an MPI module one job is one rank
SITE_MPI=${SITE_MPI:-auto}
SITE_SRUN_OPTIONS=${SITE_SRUN_OPTIONS:-}
SITE_SCRATCH=${SITE_SCRATCH:-${SLURM_TMPDIR:-}}
SITE_INTERFACE=${SITE_INTERFACE:-}
SITE_NODE_INTERNET=${SITE_NODE_INTERNET:-yes}
