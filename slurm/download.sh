#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Downloads MODEL_ID from the hub: sbatch --export=ALL,MODEL_ID=ORG/NAME slurm/download.sh, or: MODEL_ID=... bash slurm/download.sh
# Run again after any interruption it goes on. Settings are environment variables:
#   TGI_DIR or HF_HOME   where models go (TGI_DIR/hub, HF_HOME/hub)      REVISION   branch, tag or commit; default main
#   HF_TOKEN             for gated models; better the file HF_HOME/token (mode 0600), which no other user can read in the queue
#SBATCH --job-name=sluice-download
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
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

job::repair
job::site
job::binary
[[ -n ${MODEL_ID:-} ]] || job::err "MODEL_ID is not set: submit with --export=ALL,MODEL_ID=ORG/NAME"
[[ -n ${SLURM_JOB_ID:-} ]] || exec "$binary" download "$@"
[[ ${SITE_NODE_INTERNET:-yes} == yes ]] || job::log "compute nodes of this site have no internet (SITE_NODE_INTERNET); a login or data node may be the place for this"
job::alone "$binary" download "$@"
code=$?
if ((code == 75)) || { ((code != 0 && code != 2)) && job::preempted; }; then
  job::requeue "the download goes on later" || job::log "the download is not complete; submit the same line again to go on"
fi
exit "$code"
