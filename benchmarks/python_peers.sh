#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares `sluice bench` with transformers and CTranslate2: benchmarks/python_peers.sh [ARGUMENTS OF python_peers.py].
# PYTHON_PEERS_VENV keeps the Python environment; one with torch and transformers in it may be given.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
venv=${PYTHON_PEERS_VENV:-/tmp/sluice-python-peers/venv}

if [[ ! -x $venv/bin/python ]] || ! "$venv/bin/python" -c "import torch, transformers, ctranslate2" 2>/dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet transformers==4.57.1 torch ctranslate2 tokenizers
fi
exec "$venv/bin/python" "$here/python_peers.py" --sluice "$here/../build/cpu/sluice" "$@"
