#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# huggingface_test.py with the original client; 77 where scripts/client-env.sh has not run.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
if [[ ! -x build/clients/bin/python ]]; then
  echo "SKIPPED: no client packages; run scripts/client-env.sh"
  exit 77
fi
exec build/clients/bin/python tests/hub/huggingface_test.py "$1"
