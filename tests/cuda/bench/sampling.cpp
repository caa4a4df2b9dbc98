// SPDX-License-Identifier: Apache-2.0
#include "sampling.h"

#include "bench.h"

namespace sluice::bench {

void bench_sampling(Bench& bench) {
  for (const char* kind : {"greedy", "drawn", "top-p 0.9", "top-k 50"}) {
    for (const int64_t rows : {1, 8, 64, 256}) {
      bench.measure("sample " + std::string(kind) + ", " + std::to_string(rows) + " rows", [&] {
        const double bytes = 4.0 * static_cast<double>(rows * kVocab);
        const auto n = static_cast<size_t>(rows);
        const Shared logits = memory(n * kVocab * 4, kF32), scratch = memory(n * kVocab * 4, kZero);
        SlotParams slot{};
        slot.greedy = std::strcmp(kind, "greedy") == 0;
        slot.temperature = 0.7f;
        slot.top_p = slot.typical_p = slot.repetition_penalty = slot.decay_factor = 1;
        if (std::strcmp(kind, "top-p 0.9") == 0) slot.top_p = 0.9f;
        if (std::strcmp(kind, "top-k 50") == 0) slot.top_k = 50;
        slot.n_logprobs = -1;
        slot.seed = 7;
        const Shared slots = memory(n * sizeof(SlotParams), kZero), out = memory(n * sizeof(TokenResult), kZero),
                     last = memory(n * 4, kZero), entries = memory(n * 16, kZero);
        slots->write(std::vector<SlotParams>(n, slot));
        std::vector<int32_t> list;
        for (int32_t i = 0; i < static_cast<int32_t>(rows); ++i) list.insert(list.end(), {i, i, 600, -1});
        entries->write(list);
        SampleParams p{};
        p.out = out->at<TokenResult>();
        p.logits = logits->at<float>();
        p.entries = entries->at<int32_t>();
        p.slots = slots->at<SlotParams>();
        p.last = last->at<int32_t>();
        p.scratch = scratch->at<float>();
        p.n = rows;
        p.vocab = p.logits_stride = kVocab;
        return Case{"", bytes, 0, 1, [=](int, cudaStream_t s) {
                      static_cast<void>(logits), static_cast<void>(scratch), static_cast<void>(slots);
                      static_cast<void>(out), static_cast<void>(last), static_cast<void>(entries);
                      return sample(p, s);
                    }};
      });
    }
  }
}

}  // namespace sluice::bench
