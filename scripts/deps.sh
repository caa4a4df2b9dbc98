#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The libraries of deps.lock, from their pinned archives, for machines that have neither packages nor modules of them.
# Usage: deps.sh fetch FOLDER            on Debian: the archives, by apt's own sources, checked against deps.lock
#        deps.sh build PREFIX [NAME...]  all, or those named, into PREFIX; then: cmake -DCMAKE_PREFIX_PATH=PREFIX ...
# DEPS_MIRROR: where build finds archives: a folder that holds them, or the address of a Debian mirror. JOBS: compile jobs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(common::root)"
jobs=${JOBS:-$(nproc)}

deps::names() { sed -n '/^[a-z]/s/ .*//p' deps.lock; }
# deps::row NAME: sets version, sum and archive.
deps::row() {
  local name
  while read -r name version sum archive; do [[ $name != "$1" ]] || return 0; done <deps.lock
  common::err "deps.lock names no $1; it names: $(deps::names | xargs)"
}
deps::check() { # FILE SUM
  local found
  found=$(sha256sum "$1" | cut -d' ' -f1)
  [[ $found == "$2" ]] || common::err "$1 is not what deps.lock pins: expected sha256 $2, found $found; fetch it again"
}

deps::fetch() {
  local folder=$1 name version sum archive source
  command -v apt-get >/dev/null || common::err "fetch asks apt for Debian's sources, and this machine has no apt-get; copy the archives of deps.lock from one that has"
  mkdir -p "$folder"
  folder=$(cd "$folder" && pwd)
  lists=$(mktemp -d) # of the whole script: the trap runs after this function
  trap 'rm -rf "$lists"' EXIT
  mkdir -p "$lists/state/partial" "$lists/parts"
  # The machine's own sources, asked for source packages.
  cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed 's/^Types:.*/Types: deb-src/' >"$lists/parts/all.sources" || true
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -n 's/^deb /deb-src /p' >"$lists/parts/all.list" || true
  local options=(-qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$lists/parts" -o "Dir::State::lists=$lists/state")
  apt-get "${options[@]}" update
  for name in $(deps::names); do
    deps::row "$name"
    source=$(basename "$(dirname "$archive")")
    [[ -f $folder/$(basename "$archive") ]] || (cd "$folder" && apt-get "${options[@]}" source --download-only --tar-only "$source")
    [[ -f $folder/$(basename "$archive") ]] || common::err "apt's sources offer another version of $source than $version; deps.lock needs a Debian 12 mirror"
    deps::check "$folder/$(basename "$archive")" "$sum"
    common::log "$name $version"
  done
}

# deps::unpack NAME: sets tree.
deps::unpack() {
  local version sum archive file mirror
  deps::row "$1"
  file=$work/$(basename "$archive")
  case ${DEPS_MIRROR:-} in
  '') common::err "DEPS_MIRROR is not set: a folder with the archives of deps.lock (deps.sh fetch makes one), or the address of a Debian mirror" ;;
  http://* | https://*)
    mirror=${DEPS_MIRROR%/}
    [[ $archive != pool/updates/* ]] || mirror=$mirror-security # security updates have a tree of their own beside it
    curl -fsSL --retry 3 -o "$file" "$mirror/$archive" || common::err "$mirror does not serve $archive"
    ;;
  *)
    [[ -f $DEPS_MIRROR/$(basename "$archive") ]] || common::err "DEPS_MIRROR=$DEPS_MIRROR holds no $(basename "$archive"); make the folder with: scripts/deps.sh fetch FOLDER"
    cp "$DEPS_MIRROR/$(basename "$archive")" "$file"
    ;;
  esac
  deps::check "$file" "$sum"
  mkdir "$work/$1"
  tar -xf "$file" -C "$work/$1" --strip-components=1
  tree=$work/$1
  common::log "building $1 $version"
}
deps::cmake() {
  local generator=()
  ! command -v ninja >/dev/null || generator=(-G Ninja)
  if ! { cmake -S "$tree" -B "$tree/build-sluice" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$prefix" \
    -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_PREFIX_PATH="$prefix" -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DBUILD_TESTING=OFF "$@" &&
    cmake --build "$tree/build-sluice" -j "$jobs" && cmake --install "$tree/build-sluice"; } >"$tree.log" 2>&1; then
    tail -n 30 "$tree.log" >&2
    common::err "building in $tree failed; the lines above say why"
  fi
}
deps::configure() {
  (cd "$tree" && ./configure --prefix="$prefix" --libdir="$prefix/lib" "$@" && make -j "$jobs" && make install) >"$tree.log" 2>&1 || {
    tail -n 30 "$tree.log" >&2
    common::err "building in $tree failed; the lines above say why"
  }
}
deps::build_one() {
  local tree
  deps::unpack "$1"
  case $1 in
  fmt) deps::cmake -DFMT_TEST=OFF -DFMT_DOC=OFF ;;
  spdlog) deps::cmake -DSPDLOG_FMT_EXTERNAL=ON -DSPDLOG_BUILD_EXAMPLE=OFF ;;
  highway) deps::cmake -DHWY_ENABLE_TESTS=OFF -DHWY_ENABLE_EXAMPLES=OFF ;;
  oniguruma) deps::cmake -DINSTALL_DOCUMENTATION=OFF ;;
  utf8proc) deps::cmake ;;
  cpp-httplib) install -D -m 644 "$tree/httplib.h" "$prefix/include/httplib.h" ;;
  nlohmann-json) deps::cmake -DJSON_BuildTests=OFF ;;
  cli11) deps::cmake -DCLI11_BUILD_TESTS=OFF -DCLI11_BUILD_EXAMPLES=OFF -DCLI11_BUILD_DOCS=OFF ;;
  prometheus-cpp) deps::cmake -DENABLE_PULL=OFF -DENABLE_PUSH=OFF -DENABLE_TESTING=OFF -DENABLE_COMPRESSION=OFF -DUSE_THIRDPARTY_LIBRARIES=OFF ;;
  zlib) CFLAGS='-O2 -fPIC' deps::configure --static ;;
  openssl)
    (cd "$tree" && ./config --prefix="$prefix" --libdir=lib no-shared no-tests no-module no-engine no-comp no-ssl3 no-legacy -fPIC && make -j "$jobs" build_sw && make install_sw) \
      >"$tree.log" 2>&1 || {
      tail -n 30 "$tree.log" >&2
      common::err "building openssl failed; the lines above say why"
    }
    ;;
  curl)
    deps::cmake -DBUILD_CURL_EXE=OFF -DHTTP_ONLY=ON -DCURL_USE_OPENSSL=ON -DOPENSSL_ROOT_DIR="$prefix" -DCURL_USE_LIBSSH2=OFF -DCURL_USE_LIBPSL=OFF \
      -DUSE_LIBIDN2=OFF -DUSE_NGHTTP2=OFF -DCURL_ZLIB=OFF -DCURL_BROTLI=OFF -DCURL_ZSTD=OFF -DCURL_CA_BUNDLE=none -DCURL_CA_PATH=none
    ;;
  ncurses)
    deps::configure --without-shared --without-cxx-binding --without-ada --without-progs --without-tests --without-manpages --without-debug --disable-db-install \
      --disable-widec --enable-overwrite --with-default-terminfo-dir=/usr/share/terminfo --with-terminfo-dirs=/etc/terminfo:/lib/terminfo:/usr/share/terminfo CFLAGS='-O2 -fPIC'
    ;;
  libedit) deps::configure --disable-shared --disable-examples CFLAGS="-O2 -fPIC -I$prefix/include" LDFLAGS="-L$prefix/lib" ;;
  *) common::err "deps.lock names $1 and scripts/deps.sh has no recipe for it" ;;
  esac
}

case ${1:-} in
fetch)
  (($# == 2)) || common::err "usage: deps.sh fetch FOLDER"
  deps::fetch "$2"
  ;;
build)
  (($# >= 2)) || common::err "usage: deps.sh build PREFIX [NAME...]"
  mkdir -p "$2"
  prefix=$(cd "$2" && pwd)
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  shift 2
  (($# > 0)) || mapfile -t names < <(deps::names)
  for name in "${@:-${names[@]}}"; do deps::build_one "$name"; done
  common::log "done; configure with -DCMAKE_PREFIX_PATH=$prefix"
  ;;
*) common::err "usage: deps.sh fetch FOLDER | build PREFIX [NAME...]" ;;
esac
