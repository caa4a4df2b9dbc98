#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Answers every prompt of a file: sbatch --export=ALL,MODEL_ID=...,PROMPTS=in.jsonl,OUTPUT=out.jsonl slurm/generate.sh
# Run again after any interruption it completes what is missing. As a job array (--array=0-7) its tasks share the file. Settings are environment variables; `sluice info` lists them all.
#SBATCH --job-name=sluice-generate
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

job::start generate "$@"
code=$?
# 75: stopped early with prompts left, everything so far is on disk. The job then goes back into the queue.
if ((code == 75)) || { ((code != 0 && code != 2 && code != 4)) && job::preempted; }; then
  job::requeue "prompts are left" || job::log "prompts are left; submit the same line again to complete $OUTPUT"
fi
exit "$code"
