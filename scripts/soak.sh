#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Disturbs generation and serving at random: killed and silent ranks, a full disk, clients that leave, TERM under load. What must hold holds.
# Usage: soak.sh SEED COUNT [--slurm|--slurm-array|--service|--array]: seeds SEED to SEED+COUNT-1; a seed always gives the same scenario.
# --slurm: jobs on the two-node cluster of test-cluster.sh (requeue, preemption, kills, a cut link). --slurm-array: arrays of four tasks there, and a
# full disk. --service: a service there under constant load, whose jobs are ended by their time limit (odd seeds) or preempted (even ones).
# --array: generation by four tasks that share a file, without Slurm. SLUICE_BINARY says which program; default build/cpu/sluice. SOAK_PATIENCE=N
# multiplies every time limit, for a machine that is busy with other things.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(common::root)"

seed=${1:-} count=${2:-} where=${3:-}
[[ $seed =~ ^[0-9]+$ && $count =~ ^[1-9][0-9]*$ && ${where:---array} =~ ^--(slurm|slurm-array|service|array)$ && $# -le 3 ]] ||
  common::err "expected SEED COUNT [--slurm|--slurm-array|--service|--array], two whole numbers, found '$*'"
export SLUICE_BINARY=${SLUICE_BINARY:-$PWD/build/cpu/sluice} PYTHONDONTWRITEBYTECODE=1
[[ -x $SLUICE_BINARY ]] || common::err "$SLUICE_BINARY is not built; run cmake --preset cpu && cmake --build --preset cpu, or set SLUICE_BINARY"
case $where in
--slurm) SOAK_SEED=$seed SOAK_COUNT=$count exec tests/slurm/run.sh "$(dirname "$SLUICE_BINARY")" "$PWD/tests/soak/slurm_soak.sh" ;;
--slurm-array) SOAK_SEED=$seed SOAK_COUNT=$count exec tests/slurm/run.sh "$(dirname "$SLUICE_BINARY")" "$PWD/tests/soak/slurm_array.sh" ;;
--service) SOAK_SEED=$seed SOAK_COUNT=$count exec tests/slurm/run.sh "$(dirname "$SLUICE_BINARY")" "$PWD/tests/soak/slurm_service.sh" ;;
esac
exec python3 tests/soak/soak.py "$seed" "$count" ${where:+"$where"}
