# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Ranks on two nodes find each other, compute over MPI or without it, and notice each other's end. See tests/control/control_check.cpp.
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

# --- no PMI at all: the program itself, started by srun --mpi=none ---
export SLUICE_THREADS=1
readonly demo=${SLUICE_TEST_MODEL:-$repository/tests/models/demo}
printf '%s\n' '{"prompt":"Once upon a time"}' '{"prompt":"What is 7 plus 5?","temperature":0.9}' '{"messages":[{"role":"user","content":"What is the capital of France?"}]}' >"$work/in.jsonl"

# answer NAME SRUN-ARGUMENT... -- ARGUMENT...: $work/NAME.jsonl
answer() {
  local name=$1 of_srun=()
  shift
  while [[ $1 != -- ]]; do
    of_srun+=("$1")
    shift
  done
  slurm srun --mpi=none "${of_srun[@]}" "$build/sluice" generate --model "$demo" --prompts "$work/in.jsonl" --output "$work/$name.jsonl" \
    --max-new-tokens "${tokens:-32}" "${@:2}" >"$log" 2>&1 || fail "it failed: $name" "$log"
}
reference() { [[ -f $work/one.jsonl ]] || answer one -n1 --; }

without_pmi() {
  reference
  answer tp -N2 -n2 -- --tp 2 --tp-across-hosts true
  has "$log" "sums go over TCP" 1
  cmp "$work/one.jsonl" "$work/tp.jsonl" || fail "tp 2 answers otherwise" "$log"
  answer pp -N2 -n2 -- --pp 2
  cmp "$work/one.jsonl" "$work/pp.jsonl" || fail "pp 2 answers otherwise" "$log"
  answer both -N2 --ntasks-per-node=2 -- --tp 2 --pp 2
  cmp "$work/one.jsonl" "$work/both.jsonl" || fail "tp 2 x pp 2 answers otherwise" "$log"
  answer tp4 -N2 --ntasks-per-node=2 -- --tp 4 --tp-across-hosts true
  cmp "$work/one.jsonl" "$work/tp4.jsonl" || fail "tp 4 answers otherwise" "$log"
}
it "CPU ranks without any PMI answer as one rank does" without_pmi

asked_for_mpi() {
  ! slurm srun --mpi=none -N2 -n2 "$build/sluice" generate --model "$demo" --prompts "$work/in.jsonl" --output "$work/no.jsonl" --comm mpi >"$log" 2>&1 ||
    fail "expected a refusal" "$log"
  has "$log" "use srun --mpi=pmix"
}
it "--comm mpi without MPI's launcher is refused with the launch that works" asked_for_mpi

# MPI's launcher is there but its module is not: all ranks agree on TCP.
mpi_missing() {
  reference
  SLUICE_MPI_MODULE=/nonexistent/sluice_mpi.so slurm srun --mpi=pmix -N2 -n2 "$build/sluice" generate --model "$demo" --prompts "$work/in.jsonl" \
    --output "$work/missing.jsonl" --max-new-tokens 32 >"$log" 2>&1 || fail "it failed" "$log"
  has "$log" "sums go over TCP, not MPI: several CPU ranks need the MPI module" 1
  cmp "$work/one.jsonl" "$work/missing.jsonl" || fail "the answers differ" "$log"
}
it "ranks whose MPI does not work say why and go over TCP" mpi_missing

# Open MPI of Debian knows PMIx alone and would end the process.
older_pmi() {
  reference
  slurm srun --mpi=pmi2 -N2 -n2 "$build/sluice" generate --model "$demo" --prompts "$work/in.jsonl" --output "$work/pmi2.jsonl" \
    --max-new-tokens 32 >"$log" 2>&1 || fail "it failed" "$log"
  has "$log" "insist with --comm mpi" 1
  cmp "$work/one.jsonl" "$work/pmi2.jsonl" || fail "the answers differ" "$log"
}
it "ranks under a PMI that Open MPI may not know go over TCP" older_pmi

# PMIx of the site's Slurm and of MPI that do not agree how clients prove who they are.
other_security() {
  reference
  PMIX_MCA_psec=munge slurm srun --mpi=pmix -N2 -n2 "$build/sluice" generate --model "$demo" --prompts "$work/in.jsonl" --output "$work/psec.jsonl" \
    --max-new-tokens 32 >"$log" 2>&1 || fail "it failed" "$log"
  has "$log" 'sums go over TCP, not MPI: PMIX_MCA_psec=munge' 1
  cmp "$work/one.jsonl" "$work/psec.jsonl" || fail "the answers differ" "$log"
}
it "ranks whose PMIx would not believe MPI say why and go over TCP" other_security

gpu_ranks() {
  local tokens=3 module=$build/emulated/sluice_cuda.so options=(--device cuda --max-total-tokens 64 --max-batch-size 3 --max-batch-prefill-tokens 64 --max-batch-total-tokens 256 --dtype float32)
  [[ -f $module ]] || {
    echo "    SKIPPED: built without the emulated CUDA module"
    return 0
  }
  export SLUICE_CUDA_MODULE=$module SLUICE_NCCL_LIBRARY=$module SLUICE_MPI_MODULE=/nonexistent
  printf '%s\n' '{"prompt":"What is 7 plus 5?"}' >"$work/in.jsonl"
  answer gpu1 -n1 -- "${options[@]}"
  answer gpu2 -N2 -n2 -- "${options[@]}" --pp 2
  lacks "$log" MPI
  has "$log" NCCL
  cmp "$work/gpu1.jsonl" "$work/gpu2.jsonl" || fail "the answers differ" "$log"
}
it "GPU ranks without any PMI need no MPI" gpu_ranks

tcp_killed() {
  local step
  for ((i = 0; i < 2000; i++)); do echo '{"prompt":"Once upon a time"}'; done >"$work/long.jsonl"
  slurm srun --mpi=none -K0 -N2 -n4 "$build/sluice" generate --model "$demo" --prompts "$work/long.jsonl" --output "$work/long.out" --tp 4 --tp-across-hosts true \
    --max-new-tokens 400 >"$log" 2>&1 &
  step=$!
  wait_for 60 test -s "$work/long.out.journal" || fail "nothing was written" "$log"
  kill -9 "$(ranks_on n2 | head -n1)"
  wait_for 10 no_ranks || fail "ranks are left after 10 s: $(ranks_on n1) $(ranks_on n2)" "$log"
  ! wait "$step" || fail "expected a failure" "$log"
  has "$log" "was lost: its connection closed"
}
it "the death of a rank ends a run without PMI within ten seconds" tcp_killed
