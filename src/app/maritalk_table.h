// SPDX-License-Identifier: Apache-2.0
// The table that MariTalk's own benchmark prints, from any server's replies. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/load.h"

namespace sluice {

// One round: as many requests at once as `concurrency`, all waited for.
struct MaritalkRound {
  int64_t concurrency = 0;
  std::vector<LoadRequest> requests;  // with tokens, prompt_tokens, e2e, generation
};

struct MaritalkRow {
  int64_t concurrency = 0;
  double generated[3] = {}, total[3] = {};  // tokens/s of one request: mean, median, standard deviation
  double system[2] = {};                    // tokens/s of all together: median, standard deviation
};
// generated: tokens / generation time; total: (prompt + tokens) / end-to-end time; system: tokens of a round / the
// median of its end-to-end times. Failed requests and those with fewer than `least` tokens are left out, as in the
// original (100). A deviation of one value is NaN.
std::vector<MaritalkRow> maritalk_rows(const std::vector<MaritalkRound>& rounds, int64_t least);
// As the original prints it.
std::string maritalk_table(const std::vector<MaritalkRow>& rows);

}  // namespace sluice
