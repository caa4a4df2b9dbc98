// SPDX-License-Identifier: Apache-2.0
#include "attention_decode.h"
#include "attention_tile.h"

SLUICE_PREFILL(128)
SLUICE_DECODE(128)
