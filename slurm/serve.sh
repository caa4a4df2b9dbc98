#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Serves MODEL_ID over HTTP: sbatch --export=ALL,MODEL_ID=... slurm/serve.sh, or without Slurm: MODEL_ID=... bash slurm/serve.sh
# Settings are environment variables (MODEL_ID, PORT, MAX_TOTAL_TOKENS, TP, PP, AUTH, ...); `sluice info` lists them all.
#SBATCH --job-name=sluice
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
set -uo pipefail

# Under Slurm this file is a copy in a spool folder: its own place says nothing there.
from=${SLURM_SUBMIT_DIR:-$PWD}
[[ -n ${SLURM_JOB_ID:-} ]] || from=$(dirname "${BASH_SOURCE[0]}")
for root in "${RELEASE_DIR:-}" "$from" "$from/.." "$PWD"; do
  [[ ! -f $root/slurm/common.sh ]] || break
done
# shellcheck source=slurm/common.sh
source "$root/slurm/common.sh" || {
  echo "sluice: error: slurm/common.sh not found; submit from the source tree, or set RELEASE_DIR to an installed release" >&2
  exit 2
}

job::serve "$@"
