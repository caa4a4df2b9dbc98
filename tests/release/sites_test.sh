#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Site files: assignments only, every name known; the example of docs/add-a-cluster.md is taken from the page and used.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
names=(SITE_MODULES SITE_MPI SITE_SRUN_OPTIONS SITE_SCRATCH SITE_INTERFACE SITE_NODE_INTERNET)

mkdir -p "$work/tree"
cp -r "$repository/env" "$repository/slurm" "$work/tree/"
awk '/^```bash/ {inside = 1; text = ""; next} /^```/ {if (inside && text ~ /SITE_MODULES=/) printf "%s", text; inside = 0} inside {text = text $0 "\n"}' \
  "$repository/docs/add-a-cluster.md" >"$work/tree/env/birch.sh"
[[ -s $work/tree/env/birch.sh ]] || fail "docs/add-a-cluster.md holds no example"

for file in "$work"/tree/env/*.sh; do
  # shellcheck disable=SC2016  # the form itself
  odd=$(grep -vE '^(#.*|(SITE_[A-Z_]+)=\$\{\2:-.*\}( +# .*)?)$' "$file")
  [[ -z $odd ]] || fail "${file##*/} holds more than assignments of the form NAME=\${NAME:-value}: $odd"
  for name in "${names[@]}"; do grep -q "^$name=" "$file" || fail "${file##*/} does not set $name"; done
  (($(grep -c '^SITE_' "$file") == ${#names[@]})) || fail "${file##*/} sets a name that nothing reads"
  (
    unset "${names[@]}"
    set -u
    # shellcheck disable=SC1090
    source "$file"
    [[ $SITE_NODE_INTERNET =~ ^(yes|no)$ && $SITE_MPI =~ ^[a-z0-9_]+$ ]]
  ) || fail "${file##*/} cannot be sourced by itself"
done
ok "every site file assigns every name and nothing else"

# site SITE [NAME=VALUE...]: job::site with a module command that prints.
site() {
  local name=$1
  shift
  # shellcheck disable=SC2016  # expanded in there
  env -u OMPI_MCA_btl_tcp_if_include -u NCCL_SOCKET_IFNAME SLUICE_SITE="$name" "$@" bash -c '
    set -u
    root=$0
    source "$root/slurm/common.sh"
    module() { echo "module $*"; }
    job::site
    echo "mpi=$SITE_MPI interface=${OMPI_MCA_btl_tcp_if_include:-} nccl=${NCCL_SOCKET_IFNAME:-} internet=$SITE_NODE_INTERNET scratch=$SITE_SCRATCH"
  ' "$work/tree"
}
runs 0 site birch USER=me
says "module load gcc/13.2 openmpi/4.1.6"
says "mpi=pmix interface=hsn0 nccl==hsn0 internet=no scratch=/local/me"
runs 0 site birch SITE_MODULES=gcc/14 SITE_INTERFACE=ib0
says "module load gcc/14"
says "interface=ib0"
ok "the page's example loads its modules, and the environment wins over it"

runs 0 site alliance
says "module load StdEnv/2023 gcc/12.3 openmpi/4.1.5"
says "internet=no"
runs 0 site mila
says "mpi=auto interface= nccl= internet=yes"
runs 2 site brich
says "known are: alliance birch generic mila"
ok "the sites that are there say what they should, and an unknown one is refused by name"
done_testing
