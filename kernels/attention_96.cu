// SPDX-License-Identifier: Apache-2.0
#include "attention_tile.h"

SLUICE_ATTENTION(96)
