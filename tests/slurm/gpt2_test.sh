# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Sixteen ranks on two nodes, --tp 8 --pp 2: twelve heads do not divide by eight, so ranks hold padding.
export SLUICE_HOME=$work/home SLUICE_THREADS=1
readonly model=$repository/tests/golden/gpt2/twelve_heads
printf '%s\n' '{"prompt":"the ##ing and 1999"}' '{"prompt":"on a train","temperature":0.8}' '{"prompt":"in the end"}' >"$work/in.jsonl"

# generate OUTPUT COMMAND...: runs the command with the arguments of one generation.
generate() {
  local output=$1
  shift
  "$@" --model "$model" --prompts "$work/in.jsonl" --output "$output" --max-new-tokens 32 >"$log" 2>&1 || fail "it failed: $*" "$log"
  [[ $(wc -l <"$output") == 3 ]] || fail "expected 3 answers" "$output" "$log"
}

one_rank() { [[ -f $work/one.jsonl ]] || generate "$work/one.jsonl" slurm srun -n1 --mpi=none "$build/sluice" generate; }

sixteen_ranks() {
  one_rank
  generate "$work/sixteen.jsonl" slurm srun -N2 -n16 --mpi=pmix "$build/sluice" generate --tp 8 --pp 2
  cmp "$work/one.jsonl" "$work/sixteen.jsonl" || fail "the answers differ from those of one rank" "$work/one.jsonl" "$work/sixteen.jsonl"
}
it "sixteen ranks on two nodes give the answers of one" sixteen_ranks

eight_ranks() {
  one_rank
  generate "$work/eight.jsonl" slurm salloc -Q -N2 --ntasks-per-node=4 mpirun -n 8 --allow-run-as-root -x SLUICE_HOME -x SLUICE_THREADS "$build/sluice" generate
  cmp "$work/one.jsonl" "$work/eight.jsonl" || fail "the answers differ from those of one rank" "$work/one.jsonl" "$work/eight.jsonl"
}
it "mpirun -n 8 in an allocation gives the answers of one" eight_ranks
