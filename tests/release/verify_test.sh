#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# scripts/verify-release.sh on a small made-up release, damaged in the ways that copying damages one.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
verify=$repository/scripts/verify-release.sh

# make: a fresh release in $work/r.
make() {
  rm -rf "$work/r"
  mkdir -p "$work/r/bin" "$work/r/lib"
  printf '#!/bin/sh\necho 1\n' >"$work/r/bin/sluice"
  chmod 755 "$work/r/bin/sluice"
  echo library >"$work/r/lib/libx.so.1.2"
  ln -s libx.so.1.2 "$work/r/lib/libx.so.1"
  echo text >"$work/r/README.md"
  runs 0 bash "$verify" "$work/r" --record
}

make
runs 0 bash "$verify" "$work/r"
says "whole, 4 entries"
ok "a fresh release is whole"

make
chmod -x "$work/r/bin/sluice"
runs 1 bash "$verify" "$work/r"
says "bin/sluice has lost its exec bit"
runs 0 bash "$verify" "$work/r" --repair
says "repaired: bin/sluice"
[[ -x $work/r/bin/sluice && ! -x $work/r/README.md ]] || fail "exec bits are not as they were"
runs 0 bash "$verify" "$work/r"
ok "lost exec bits are restored, where there were some"

make
rm "$work/r/lib/libx.so.1"
cp "$work/r/lib/libx.so.1.2" "$work/r/lib/libx.so.1"
runs 1 bash "$verify" "$work/r"
says "is a copy of libx.so.1.2, expected a link"
runs 0 bash "$verify" "$work/r" --repair
[[ $(readlink "$work/r/lib/libx.so.1") == libx.so.1.2 ]] || fail "not a link again"
rm "$work/r/lib/libx.so.1"
runs 1 bash "$verify" "$work/r"
says "libx.so.1 is missing, a link to"
runs 0 bash "$verify" "$work/r" --repair
[[ $(readlink "$work/r/lib/libx.so.1") == libx.so.1.2 ]] || fail "not a link again"
ln -sfn elsewhere "$work/r/lib/libx.so.1"
runs 0 bash "$verify" "$work/r" --repair
says "points to elsewhere"
runs 0 bash "$verify" "$work/r"
ok "links that became files, vanished or point elsewhere are restored"

make
rm "$work/r/lib/libx.so.1"
echo precious >"$work/r/lib/libx.so.1"
runs 1 bash "$verify" "$work/r" --repair
says "is no link to libx.so.1.2 and holds something else"
[[ $(<"$work/r/lib/libx.so.1") == precious ]] || fail "a file with other contents was replaced"
ok "a file with other contents in a link's place is named, not replaced"

make
echo changed >"$work/r/README.md"
rm "$work/r/lib/libx.so.1.2"
chmod -x "$work/r/bin/sluice"
runs 1 bash "$verify" "$work/r" --repair
says "README.md has changed: expected sha256"
says "lib/libx.so.1.2 is missing (copy this file again)"
says "repaired: bin/sluice"
says "2 of 4 entries are broken"
ok "changed and missing contents are named, the rest is repaired"

make
echo "file 755 00 ../../etc/passwd" >>"$work/r/MANIFEST"
runs 1 bash "$verify" "$work/r" --repair
says "MANIFEST:5"
rm "$work/r/MANIFEST"
runs 1 bash "$verify" "$work/r"
says "holds no MANIFEST"
: >"$work/r/MANIFEST"
runs 1 bash "$verify" "$work/r"
says "MANIFEST is empty"
runs 1 bash "$verify" "$work/none"
says "is no folder"
runs 1 bash "$verify" "$work/r" --fix
says "unknown argument --fix"
ok "a damaged or missing manifest and bad arguments are refused"
done_testing
