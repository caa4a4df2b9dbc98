#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares `sluice serve` with llama-cpp-python's server: benchmarks/llama_cpp_server.sh [ARGUMENTS OF llama_cpp_server.py].
# LLAMA_CPP_VENV keeps the Python environment, whose llama.cpp is compiled for this machine when it is made.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
venv=${LLAMA_CPP_VENV:-/tmp/sluice-llama-cpp/venv}

if [[ ! -x $venv/bin/python ]] || ! "$venv/bin/python" -c "import llama_cpp.server.app, gguf" 2>/dev/null; then
  python3 -m venv "$venv"
  CMAKE_ARGS="-DGGML_NATIVE=ON" "$venv/bin/pip" install --quiet "llama-cpp-python[server]" gguf
fi
exec "$venv/bin/python" "$here/llama_cpp_server.py" --sluice "$here/../build/cpu/sluice" "$@"
