# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Ranks on two nodes find each other, compute over MPI, and notice each other's end. See tests/control/control_check.cpp.
readonly check=$build/tests/control/control_check mpi=$build/tests/comm/mpi_check
export SLUICE_HOME=$work/home SLUICE_MPI_MODULE=$build/sluice_mpi.so

form_with() {
  slurm srun "$@" "$check" form >"$log" 2>&1 || fail "srun $* failed" "$log"
  has "$log" formed "$ranks"
}

plain_srun() {
  ranks=4 form_with -N2 --ntasks-per-node=2 --mpi=none
  has "$log" "hosts n1 n1 n2 n2" 4
}
it "four ranks on two nodes form without MPI" plain_srun

pmix_srun() { ranks=3 form_with -N2 -n3 --mpi=pmix; }
it "ranks under PMIx form before MPI is touched" pmix_srun

# The node list says n[1-2], rank 0 sits on n2.
other_first_host() {
  printf '%s\n' n2 n1 >"$work/order"
  SLURM_HOSTFILE=$work/order slurm srun -n2 -m arbitrary --mpi=none "$check" form >"$log" 2>&1 || fail "srun failed" "$log"
  has "$log" "hosts n2 n1" 2
}
it "rank 0 need not sit on the first host" other_first_host

mpirun_ranks() {
  slurm salloc -Q -N2 --ntasks-per-node=2 mpirun --allow-run-as-root -x SLUICE_HOME "$check" form >"$log" 2>&1 || fail "mpirun failed" "$log"
  has "$log" formed 4
}
it "mpirun across nodes forms" mpirun_ranks

same_port() {
  slurm srun -N2 -n2 --mpi=none "$check" wait 4 >"$work/one" 2>&1 &
  SLURM_OVERLAP=1 slurm srun -N2 -n2 --mpi=none "$check" wait 4 >"$work/two" 2>&1 &
  wait
  has "$work/one" formed 2
  has "$work/two" formed 2
}
it "two jobs at once form apart" same_port

missing() {
  ! SLUICE_FORMATION_SECONDS=3 slurm srun -N2 -n2 --mpi=none -K1 "$check" skip 20 >"$log" 2>&1 || fail "expected a failure" "$log"
  has "$log" "waited 3 s for 2 ranks, 1 came; missing: rank 1, expected on n2 (0 of 1 came)"
}
it "a missing rank is named with its node" missing

all_formed() { [[ $(grep -c formed "$log") == 2 ]]; }
start_waiting() {
  slurm srun -N2 -n2 --mpi=none -K0 "$check" wait 60 >"$log" 2>&1 &
  step=$!
  wait_for 30 all_formed || fail "the ranks did not form" "$log"
}

killed() {
  start_waiting
  kill -9 "$(sed -n 's/^rank 1 formed: pid \([0-9]*\),.*/\1/p' "$log")"
  wait_for 10 grep -q "rank 0 lost: rank 1 on n2 (pid" "$log" || fail "rank 0 did not notice within 10 s" "$log"
  ! wait "$step" || fail "expected a failure" "$log"
  has "$log" "was lost: its connection closed"
}
it "kill -9 on one node ends the rank on the other" killed

cut_link() {
  start_waiting
  ip link set sluice-v2 down
  wait_for 10 grep -q "rank 0 lost: rank 1 on n2 (pid" "$log" || lost=no
  ip link set sluice-v2 up
  [[ ${lost:-} != no ]] || fail "rank 0 did not notice within 10 s" "$log"
  wait "$step"
  has "$log" "nothing heard of it for"
}
it "a cut link is noticed by silence" cut_link

mpi_collectives() {
  [[ -f $SLUICE_MPI_MODULE ]] || {
    echo "    SKIPPED: built without MPI"
    return 0
  }
  SLUICE_MPI_CHECK_DIR=$work SLUICE_MPI_CHECK_RUN=2 slurm srun -N2 -n2 --mpi=pmix "$mpi" 2 1 >"$log" 2>&1 || fail "srun failed" "$log"
  has "$log" "2 ranks, tp 2, pp 1: all collectives right"
  SLUICE_MPI_CHECK_DIR=$work SLUICE_MPI_CHECK_RUN=4 slurm srun -N2 -n4 --mpi=pmix "$mpi" 2 2 >"$log" 2>&1 || fail "srun failed" "$log"
  has "$log" "4 ranks, tp 2, pp 2: all collectives right"
}
it "collectives over MPI between nodes are right" mpi_collectives

mpi_none() {
  ! slurm srun -N2 -n2 --mpi=none "$mpi" 2 1 >"$log" 2>&1 || fail "expected a refusal" "$log"
  has "$log" "use srun --mpi=pmix"
}
it "ranks without MPI's launcher are told which launch works" mpi_none
