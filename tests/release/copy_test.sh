#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A release: installed, copied elsewhere, and used with the build and source trees out of sight. Usage: copy_test.sh BUILD_DIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[[ -d ${1:-} ]] || fail "usage: copy_test.sh BUILD_DIR"
build=$(cd "$1" && pwd)
copy=$work/elsewhere/copy
[[ -x $build/sluice ]] || fail "$build/sluice is not built"

for program in "$build/sluice" "$build"/sluice_*.so; do
  [[ -f $program ]] || continue
  runs 0 readelf -d "$program"
  folders=$(sed -nE 's/.*\((RPATH|RUNPATH)\).*\[(.*)\]$/\2/p' "$log")
  [[ -n $folders && :$folders: != *::* ]] || fail "$program searches the current folder for libraries: '$folders'"
done
ok "what is built searches no current folder for libraries"

runs 0 cmake --install "$build" --prefix "$work/installed"
mkdir "$work/elsewhere"
cp -a "$work/installed" "$copy"
rm -rf "$work/installed"
for path in bin/sluice slurm/serve.sh slurm/generate.sh slurm/common.sh env/generic.sh env/mila.sh scripts/verify-release.sh \
  docs/slurm.md LICENSE README.md VERSION MANIFEST; do
  [[ -s $copy/$path ]] || fail "the release lacks $path"
done
[[ ! -f $build/sluice_mpi.so || -s $copy/lib/sluice/sluice_mpi.so ]] || fail "the release lacks the MPI module"
runs 0 bash "$copy/scripts/verify-release.sh" "$copy"
ok "an installation is complete and its copy is whole"

runs 1 grep -rlF -e "$build" -e "$repository" -e "$work" "$copy"
for program in "$copy/bin/sluice" "$copy"/lib/sluice/*.so; do
  [[ -f $program ]] || continue
  runs 0 readelf -d "$program"
  # shellcheck disable=SC2016  # the loader expands it
  grep -qE '\((RPATH|RUNPATH)\).*\[\$ORIGIN/\.\.' "$log" || fail "$program has no run path relative to itself"
done
ok "nothing in it names the build or the source tree"

for library in "$copy"/lib/*.so*; do
  [[ ! ${library##*/} =~ ^(libc\.so|libm\.so|ld-linux|libmpi|libpmix|libopen-) ]] || fail "${library##*/} must not be bundled"
done
ok "the C library and MPI are not bundled"

# The rest runs without either tree; where they cannot be hidden, the loaded libraries alone tell.
cp -r "$repository/tests/models/demo" "$work/model"
cp "$repository"/tests/release/copied.sh "$repository"/tests/release/lib.sh "$work/"
hide=()
# shellcheck disable=SC2016  # expanded in there
if unshare -m true 2>/dev/null; then
  hide=(unshare -m bash -c 'mount -t tmpfs none "$0" && { [[ ! -d $1 ]] || mount -t tmpfs none "$1"; } && shift && exec "$@"' "$repository" "$build")
else
  echo "SKIPPED: without the right to mount, the build and source trees stay visible"
fi
cd "$work" || fail "no folder $work"
"${hide[@]}" bash "$work/copied.sh" "$work" "${hide[0]:+$repository}" || exit 1
done_testing
