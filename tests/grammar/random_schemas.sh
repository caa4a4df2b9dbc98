#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs random_schemas.py with the client packages' Python. Usage: random_schemas.sh SLUICE COUNT SEED
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly python="$here/../../build/clients/bin/python"
if ! "$python" -c 'import jsonschema' 2>/dev/null; then
  echo "SKIPPED: no jsonschema; run scripts/client-env.sh"
  exit 77
fi
exec "$python" "$here/random_schemas.py" "$@"
