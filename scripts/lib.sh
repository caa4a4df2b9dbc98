# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts of this folder: messages and package installation.

common::log() { printf '==> %s\n' "$*" >&2; }
common::err() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
common::root() (cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# common::install PACKAGE...: installs the Debian packages that are missing. Without root it names them and stops.
common::install() {
  local missing=() package
  if ! command -v dpkg-query >/dev/null; then
    common::log "this is no Debian system: relying on modules or system copies of: $*"
    return 0
  fi
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]} == 0)) && return 0
  if ((EUID != 0)); then
    common::err "missing packages: ${missing[*]}
Ask an administrator for: apt-get install ${missing[*]}
On a cluster, load modules that provide them (compiler, cmake, openmpi, ...) and run this again."
  fi
  common::log "installing ${#missing[@]} packages: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# What the program needs to build and run.
# shellcheck disable=SC2034  # used by the scripts that source this file
SLUICE_BUILD_PACKAGES=(
  g++ cmake ninja-build pkg-config ccache mold
  libhwy-dev libonig-dev libutf8proc-dev libspdlog-dev libfmt-dev libcpp-httplib-dev
  nlohmann-json3-dev libcli11-dev libssl-dev zlib1g-dev libcurl4-openssl-dev libopenmpi-dev openmpi-bin prometheus-cpp-dev libedit-dev curl
)
# What the tests need besides.
# shellcheck disable=SC2034
SLUICE_TEST_PACKAGES=(
  doctest-dev slurm-wlm slurm-wlm-basic-plugins munge libpmix-dev iproute2 util-linux procps openssh-client
  python3 python3-venv chromium chromium-driver fonts-dejavu-core tmux shellcheck shfmt bats clang-format
)
