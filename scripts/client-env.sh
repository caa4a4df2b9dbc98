#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes build/clients, a Python environment with the original clients that tests/clients runs against a server.
# Needs the network once; without it the tests that need the clients are skipped.
# Usage: client-env.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$(common::root)"

(($# == 0)) || common::err "client-env.sh takes no arguments, found '$*'"
readonly folder=build/clients wanted=tests/clients/requirements.txt
if cmp -s "$wanted" "$folder/requirements.txt"; then
  common::log "client packages are there ($folder)"
  exit 0
fi
command -v python3 >/dev/null || common::err "python3 is missing; the client tests need it (apt-get install python3-venv)"
rm -rf "$folder"
python3 -m venv "$folder"
# MariTalk's benchmark script is in its source distribution alone.
client::maritalk() {
  local version
  version=$(sed -n 's/^maritalk==//p' "$wanted")
  "$folder/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary maritalk -d "$folder" "maritalk==$version" &&
    mkdir "$folder/maritalk" && tar -xf "$folder/maritalk-$version.tar.gz" -C "$folder/maritalk" --strip-components=1
}
if "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$wanted" && client::maritalk; then
  cp "$wanted" "$folder/requirements.txt"
  common::log "client packages installed ($folder)"
else
  common::log "the client packages could not be installed (no network?): the client tests will be SKIPPED"
fi
