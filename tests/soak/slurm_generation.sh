# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# What the soaks of generation on the cluster share: settings, and the answers of an undisturbed run. Sourced by them.
export SLUICE_HOME=$work/home MODEL_ID=$repository/tests/models/demo SLUICE_THREADS=1 MAX_NEW_TOKENS=60 MAX_BATCH_SIZE=8
export SLURM_CONF=/tmp/sluice-test-cluster/etc/slurm.conf
unset RELEASE_DIR

undisturbed() {
  export OUTPUT=$work/reference.jsonl
  submit "$log" -W -n1 "$repository/slurm/generate.sh" >/dev/null || fail "the job failed" "$log"
}
it "undisturbed run" undisturbed
