# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
# Digital Research Alliance of Canada: Fir, Nibi, Narval, Rorqual, Trillium, TamIA. sbatch needs --account. On Trillium submit from
# $SCRATCH, for whole nodes or one GPU. Of these only Fir and Nibi give compute nodes internet (submit there with
# SITE_NODE_INTERNET=yes); `module load httpproxy` on the others lets a few hosts through. $SCRATCH is purged after some three months.
SITE_MODULES=${SITE_MODULES:-StdEnv/2023 gcc/12.3 openmpi/4.1.5}
SITE_MPI=${SITE_MPI:-auto}
SITE_SRUN_OPTIONS=${SITE_SRUN_OPTIONS:-}
SITE_SCRATCH=${SITE_SCRATCH:-${SLURM_TMPDIR:-}}
SITE_INTERFACE=${SITE_INTERFACE:-}
SITE_NODE_INTERNET=${SITE_NODE_INTERNET:-no}
