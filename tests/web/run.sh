#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: run.sh SLUICE. WEB_PICTURES=FOLDER keeps screenshots there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for needed in chromium chromedriver; do
  command -v "$needed" >/dev/null || {
    echo "SKIPPED: no $needed (apt-get install chromium chromium-driver)"
    exit 77
  }
done
if ! build/clients/bin/python -c 'import selenium' 2>/dev/null; then
  echo "SKIPPED: no client packages; run scripts/client-env.sh"
  exit 77
fi
SLUICE_BINARY=$1 PYTHONDONTWRITEBYTECODE=1 exec build/clients/bin/python tests/web/web_test.py -v
