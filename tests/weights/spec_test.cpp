// SPDX-License-Identifier: Apache-2.0
#include "weights/spec.h"

#include <doctest/doctest.h>

#include "base/error.h"

namespace sluice {

TEST_CASE("Every split covers each query head once with its own KV head") {
  const std::pair<int64_t, int64_t> counts[] = {{4, 4}, {8, 2}, {6, 3}, {71, 1}, {25, 25}, {32, 8}, {14, 2}, {1, 1}};
  for (const auto& pair : counts) {
    const int64_t n_heads = pair.first, n_kv = pair.second;
    for (int tp = 1; tp <= 16; ++tp) {
      CAPTURE(n_heads);
      CAPTURE(n_kv);
      CAPTURE(tp);
      std::vector<int> seen(static_cast<size_t>(n_heads));
      int64_t local_heads = -1, local_kv = -1;
      for (int rank = 0; rank < tp; ++rank) {
        const Partition p({n_heads, n_kv, 8, 100, 251}, rank, tp);
        if (rank == 0) local_heads = p.heads.padded, local_kv = p.kv_heads.padded;
        REQUIRE(p.heads.padded == local_heads);
        REQUIRE(p.kv_heads.padded == local_kv);
        REQUIRE(local_heads % local_kv == 0);
        for (int64_t i = 0; i < p.heads.count; ++i) {
          const int64_t head = p.heads.begin + i;
          ++seen[static_cast<size_t>(head)];
          // The attention op pairs local head i with local KV head i / (heads per KV head).
          const int64_t kv = i / (local_heads / local_kv);
          REQUIRE(kv < p.kv_heads.count);
          REQUIRE(p.kv_heads.begin + kv == head / (n_heads / n_kv));
        }
      }
      for (const int n : seen) REQUIRE(n == 1);
    }
  }
}

TEST_CASE("Feed-forward columns and vocabulary rows are covered once and padded to the same size") {
  for (int tp = 1; tp <= 16; ++tp) {
    int64_t ff = 0, vocab = 0;
    for (int rank = 0; rank < tp; ++rank) {
      const Partition p({4, 2, 8, 100, 251}, rank, tp);
      CHECK(p.d_ff.begin == ff);
      CHECK(p.vocab.begin == vocab);
      CHECK(p.d_ff.padded == (100 + tp - 1) / tp);
      CHECK(p.vocab.padded == (251 + tp - 1) / tp);
      ff += p.d_ff.count;
      vocab += p.vocab.count;
    }
    CHECK(ff == 100);
    CHECK(vocab == 251);
  }
}

TEST_CASE("A KV head is copied when there are more ranks than KV heads") {
  const Partition p({32, 8, 128, 1024, 1000}, 3, 16);
  CHECK(p.kv_heads.begin == 1);
  CHECK(p.kv_heads.count == 1);
  CHECK(p.heads.begin == 6);
  CHECK(p.heads.count == 2);
  CHECK(p.of(Split::kQueryHeads, 4096).begin == 6 * 128);
}

TEST_CASE("Layers are split over stages without a gap and more stages than layers are refused") {
  for (int stages = 1; stages <= 7; ++stages) {
    int64_t next = 0;
    for (int stage = 0; stage < stages; ++stage) {
      const LayerRange range = stage_layers(7, stage, stages);
      CHECK(range.begin == next);
      CHECK(range.count >= 7 / stages);
      next += range.count;
    }
    CHECK(next == 7);
  }
  CHECK_THROWS_WITH_AS(stage_layers(2, 0, 3), "--pp 3 is more than the 2 layers of the model; use at most 2", Error);
}

}  // namespace sluice
