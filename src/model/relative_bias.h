// SPDX-License-Identifier: Apache-2.0
// T5's relative positions: distances between key and query fall into buckets, fine ones near and coarse ones far, and
// each bucket has a bias per head.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice {

struct RelativeBuckets {
  int64_t buckets = 32;
  int64_t max_distance = 128;  // farther keys share the last bucket
  bool bidirectional = false;  // otherwise keys behind the query do not count
};

// Bucket of a key at key - query.
int64_t relative_bucket(const RelativeBuckets& how, int64_t distance);

// [heads.padded, 2 * max_distance + 1]: the bias of each local head at each distance from -max_distance on, zeros for
// heads that are padding. `table` is the checkpoint's [buckets, n_heads].
std::vector<float> relative_biases(const RelativeBuckets& how, const std::vector<float>& table, int64_t n_heads,
                                   int64_t first_head, int64_t n_local, int64_t n_padded);

}  // namespace sluice
