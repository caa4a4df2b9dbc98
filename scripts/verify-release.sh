#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares a copied release with the MANIFEST that its installation wrote: contents, exec bits, links.
# Usage: verify-release.sh DIR [--repair | --record]
# --repair restores exec bits, lost links and links that a copy turned into files; changed or missing content it only names.
# --record writes the MANIFEST. Exit code 0: the release is whole (or was repaired); 1: something is left.
set -euo pipefail

err() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
mode=check release=""
for argument in "$@"; do
  case $argument in
  --repair) mode=repair ;;
  --record) mode=record ;;
  -*) err "unknown argument $argument; known are --repair and --record" ;;
  *)
    [[ -z $release ]] || err "one release at a time: found $release and $argument"
    release=$argument
    ;;
  esac
done
[[ -n $release ]] || err "which release? Usage: verify-release.sh DIR [--repair]"
[[ -d $release ]] || err "$release is no folder"
cd "$release"

# One line each: "file MODE SHA256 PATH" or "link - TARGET PATH". Names hold no blanks.
if [[ $mode == record ]]; then
  [[ -f bin/sluice ]] || err "$release holds no bin/sluice: not a release"
  odd=$(find . -name '*[[:space:]]*' -print -quit)
  [[ -z $odd ]] || err "a release holds no names with blanks, found: $odd"
  while read -r path; do
    if [[ -L $path ]]; then
      echo "link - $(readlink "$path") $path"
    else
      read -r sum _ < <(sha256sum "$path")
      bits=644
      [[ ! -x $path ]] || bits=755
      echo "file $bits $sum $path"
    fi
  done < <(find . \( -type f -o -type l \) ! -path ./MANIFEST ! -path ./MANIFEST.new -printf '%P\n' | LC_ALL=C sort) >MANIFEST.new
  mv MANIFEST.new MANIFEST
  exit 0
fi

[[ -f MANIFEST ]] || err "$release holds no MANIFEST: it was not made by cmake --install, or the copy is incomplete; copy it again"
found=0 repaired=0 listed=0
# problem WHAT [COMMAND...]: counts it; with --repair and a command, repairs it.
problem() {
  local what=$1
  shift
  ((++found))
  if [[ $mode == repair && $# -gt 0 ]] && "$@"; then
    ((++repaired))
    echo "repaired: $what"
  elif (($# > 0)); then
    echo "broken: $what (--repair restores it)"
  else
    echo "broken: $what (copy this file again)"
  fi
}
relink() {
  mkdir -p "$(dirname "$2")"
  rm -f "$2"
  ln -s "$1" "$2"
}
same_file() { [[ -f $1 && -f $2 ]] && cmp -s "$1" "$2"; }

# Files first: whether a link's place may be overwritten depends on what it points to.
for kind_now in file link; do
  number=0
  while read -r kind bits value path rest; do
    ((++number))
    if [[ ! $kind =~ ^(file|link)$ || -z $path || -n $rest || $path == /* || /$path/ == */../* ]]; then
      err "MANIFEST:$number: expected 'file MODE SHA256 PATH' or 'link - TARGET PATH'; the MANIFEST itself is damaged, copy it again"
    fi
    [[ $kind == "$kind_now" ]] || continue
    ((++listed))
    if [[ $kind == link ]]; then
      if [[ -L $path && $(readlink "$path") == "$value" ]]; then continue; fi
      if [[ -L $path ]]; then
        problem "$path points to $(readlink "$path"), expected $value" relink "$value" "$path"
      elif [[ ! -e $path ]]; then
        problem "$path is missing, a link to $value" relink "$value" "$path"
      elif same_file "$path" "$(dirname "$path")/$value"; then
        problem "$path is a copy of $value, expected a link to it" relink "$value" "$path"
      else
        problem "$path is no link to $value and holds something else"
      fi
      continue
    fi
    if [[ ! -f $path ]]; then
      problem "$path is missing"
      continue
    fi
    read -r sum _ < <(sha256sum "$path")
    if [[ $sum != "$value" ]]; then
      problem "$path has changed: expected sha256 $value, found $sum"
    elif [[ $bits == 755 && ! -x $path ]]; then
      problem "$path has lost its exec bit" chmod u=rwx,go=rx "$path"
    fi
  done <MANIFEST
done

((listed > 0)) || err "the MANIFEST is empty: copy it again"
if ((found == 0)); then
  echo "$release: whole, $listed entries"
elif ((found == repaired)); then
  echo "$release: repaired, $found of $listed entries"
else
  echo "$release: $((found - repaired)) of $listed entries are broken"
  exit 1
fi
