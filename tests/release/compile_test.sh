#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# slurm/compile.sh around a pretended cmake: where the release goes, what happens to the one before, what is refused.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
mkdir -p "$work/tree/scripts" "$work/bin" "$work/scratch"
cp -r "$repository/slurm" "$repository/env" "$work/tree/"
touch "$work/tree/CMakeLists.txt"
cat >"$work/bin/cmake" <<'C'
#!/usr/bin/env bash
echo "cmake $*"
case $1 in
-S) [[ -z ${REFUSE:-} ]] || { echo "CMake Error: no libraries"; exit 1; } ;;
--build) [[ -z ${BREAK:-} ]] ;;
--install)
  mkdir -p "$4/bin" "$4/scripts"
  cp "$VERIFY" "$4/scripts/"
  printf '#!/bin/sh\necho %s\n%s\n' "$RELEASE" "${STARTS:-true}" >"$4/bin/sluice"
  chmod 755 "$4/bin/sluice"
  echo "$RELEASE" >"$4/VERSION"
  bash "$VERIFY" "$4" --record
  ;;
esac
C
printf '#!/bin/sh\n' >"$work/bin/c++"
chmod +x "$work/bin"/*
export VERIFY=$repository/scripts/verify-release.sh PATH=$work/bin:$PATH SITE_SCRATCH=$work/scratch
unset SLURM_JOB_ID SLURM_SUBMIT_DIR SLUICE_SITE RELEASE_DIR SLURM_CPUS_PER_TASK
compile() { (cd "$work" && env "$@" bash "${script:-$work/tree/slurm/compile.sh}"); }
nothing_left() {
  [[ -z $(ls -A "$work/scratch") ]] || fail "left in scratch: $(ls "$work/scratch")"
  compgen -G "$work/release.new*" >/dev/null && fail "an unfinished release was left"
  return 0
}

runs 0 compile RELEASE=1 RELEASE_DIR="$work/release"
says "release 1 is in $work/release"
says "no MPI was found"
nothing_left
runs 0 compile RELEASE=2 RELEASE_DIR=release/
[[ $(<"$work/release/VERSION") == 2 && $(<"$work/release.previous/VERSION") == 1 ]] || fail "the releases are not where they should be"
runs 0 compile RELEASE=3 RELEASE_DIR="$work/release"
[[ $(<"$work/release/VERSION") == 3 && $(<"$work/release.previous/VERSION") == 2 ]] || fail "the releases are not where they should be"
nothing_left
ok "a new release takes the place of the old one, which stays as .previous"

mkdir -p "$work/cuda/bin"
printf '#!/bin/sh\n' >"$work/cuda/bin/nvcc"
chmod +x "$work/cuda/bin/nvcc"
runs 0 compile RELEASE=3 RELEASE_DIR="$work/release" CUDA_HOME="$work/cuda"
says "-DSLUICE_CUDA=ON"
runs 0 compile RELEASE=3 RELEASE_DIR="$work/release" CUDA_HOME="$work/cuda" SLUICE_CUDA=OFF
says "-DSLUICE_CUDA=OFF"
says "without CUDA"
ok "where there is nvcc the release has the CUDA module, unless SLUICE_CUDA=OFF"

runs 2 compile RELEASE=4 BREAK=1 RELEASE_DIR="$work/release"
says "compiling failed"
runs 2 compile RELEASE=4 "STARTS=exit 1" RELEASE_DIR="$work/release"
says "does not start"
[[ $(<"$work/release/VERSION") == 3 ]] || fail "a broken release took the old one's place"
nothing_left
ok "what does not compile or start leaves the old release as it was"

runs 2 compile RELEASE=5 REFUSE=yes RELEASE_DIR="$work/release"
says "SITE_MODULES"
nothing_left
ok "a library that is not there is said to need a module"

# A job runs a copy of the script from a spool folder.
mkdir "$work/spool"
cp "$repository/slurm/compile.sh" "$work/spool/slurm_script"
script=$work/spool/slurm_script
job=(SLURM_JOB_ID=7 SLURM_SUBMIT_DIR="$work/tree" SLURM_CPUS_PER_TASK=3)
runs 0 compile RELEASE=7 "${job[@]}" RELEASE_DIR="$work/release"
says "-j 3"
runs 2 compile RELEASE=7 SLURM_JOB_ID=7 SLURM_SUBMIT_DIR="$work/scratch" RELEASE_DIR="$work/release"
says "submit from the source tree"
script=""
nothing_left
ok "a job compiles the tree that it was submitted from, with the CPUs it has"

mkdir "$work/home"
touch "$work/home/thesis.tex"
runs 2 compile RELEASE=8 RELEASE_DIR="$work/home"
says "holds something that is no release"
runs 2 compile RELEASE=8
says "RELEASE_DIR is not set"
runs 2 compile RELEASE=8 RELEASE_DIR="$work/release" SLUICE_SITE=nowhere
says "known are: alliance generic mila"
[[ -f $work/home/thesis.tex ]] || fail "someone's folder was replaced"
nothing_left
ok "a folder that is no release, a missing setting and an unknown site are refused"
done_testing
