// SPDX-License-Identifier: Apache-2.0
#include "attention_decode.h"
#include "attention_prefill.h"

SLUICE_PREFILL(256)
SLUICE_DECODE(256)
