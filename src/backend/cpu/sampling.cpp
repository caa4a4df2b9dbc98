// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "sample/sampler.h"

namespace sluice {
namespace {

struct CpuSampler : SamplerState {
  struct Slot {
    SamplingParams params;
    TokenHistory history;        // allocated when the parameters first need it
    std::vector<uint32_t> mask;  // empty: every token is allowed
  };
  CpuSampler(int64_t slots, int64_t vocab, int threads)
      : vocab(vocab),
        slots(static_cast<size_t>(slots)),
        last(Buffer::host(static_cast<size_t>(slots) * sizeof(int32_t))),
        scratch(static_cast<size_t>(threads)),
        copies(static_cast<size_t>(threads)) {}
  Tensor last_tokens() const override { return last.view(DType::kI32, {static_cast<int64_t>(slots.size())}); }

  int64_t vocab;
  std::vector<Slot> slots;
  Buffer last;  // i32 [slots]
  std::vector<SamplerScratch> scratch;
  std::vector<std::vector<float>> copies;  // per thread: a row of logits that several entries draw from
};

}  // namespace

std::unique_ptr<SamplerState> CpuBackend::make_sampler(int64_t slots, int64_t vocab) {
  return std::make_unique<CpuSampler>(slots, vocab, pool_.threads());
}

void CpuBackend::set_slot(SamplerState& state, int64_t slot, const SamplingParams& params, const int32_t* history,
                          int64_t n_history, int64_t n_output) {
  auto& sampler = static_cast<CpuSampler&>(state);
  CpuSampler::Slot& s = sampler.slots.at(static_cast<size_t>(slot));
  s.params = params;
  s.mask.clear();
  if (!params.needs_history()) return;
  s.history.reset(sampler.vocab);
  const int64_t prompt = n_history - n_output;
  s.history.add_prompt({history, static_cast<size_t>(prompt)});
  for (int64_t i = prompt; i < n_history; ++i) s.history.add_output(history[i]);
}

void CpuBackend::set_mask(SamplerState& state, int64_t slot, const uint32_t* words) {
  auto& sampler = static_cast<CpuSampler&>(state);
  std::vector<uint32_t>& mask = sampler.slots.at(static_cast<size_t>(slot)).mask;
  if (words == nullptr) return mask.clear();
  mask.assign(words, words + (sampler.vocab + 31) / 32);
}

void CpuBackend::resolve_tokens(SamplerState& state, const Tensor& tokens, const Tensor& slots) {
  const auto* last = static_cast<CpuSampler&>(state).last_tokens().as<int32_t>();
  for (int64_t t = 0; t < tokens.dim(0); ++t) {
    if (tokens.as<int32_t>()[t] < 0) tokens.as<int32_t>()[t] = last[slots.as<int32_t>()[t]];
  }
}

void CpuBackend::sample(SamplerState& state, const Tensor& out, const Tensor& logits, const Tensor& entries) {
  auto& sampler = static_cast<CpuSampler&>(state);
  check(out.dim(1) == static_cast<int64_t>(sizeof(SampledToken)) && logits.dim(1) == sampler.vocab,
        "sample: shapes do not fit");
  const int64_t n = entries.dim(0);
  // Entries that name one row of logits (forked choices) draw from copies.
  pool_.split(n, n * sampler.vocab < 8192 ? std::max<int64_t>(n, 1) : 1, [&](int64_t begin, int64_t end, int thread) {
    SamplerScratch& scratch = sampler.scratch[static_cast<size_t>(thread)];
    for (int64_t i = begin; i < end; ++i) {
      const auto* entry = static_cast<const int32_t*>(entries.row(i));
      if (entry[0] < 0) continue;
      const bool shared = (i > 0 && entry[-4] == entry[0]) || (i + 1 < n && entry[4] == entry[0]);
      auto* row = static_cast<float*>(logits.row(entry[0]));
      auto* result = static_cast<SampledToken*>(out.row(i));
      CpuSampler::Slot& slot = sampler.slots.at(static_cast<size_t>(entry[1]));
      if (entry[3] >= 0) {
        score_row({row, static_cast<size_t>(sampler.vocab)}, entry[3], std::max(slot.params.n_logprobs, 0), *result);
        continue;
      }
      if (shared) {
        std::vector<float>& copy = sampler.copies[static_cast<size_t>(thread)];
        copy.assign(row, row + sampler.vocab);
        row = copy.data();
      }
      const TokenHistory* history = slot.params.needs_history() ? &slot.history : nullptr;
      if (entry[3] < -1) {
        best_of_row({row, static_cast<size_t>(sampler.vocab)}, slot.params, history, entry[2],
                    (-2 - entry[3]) * kMaxTopLogprobs, scratch, *result);
        continue;
      }
      sample_row({row, static_cast<size_t>(sampler.vocab)}, slot.params, history, entry[2], scratch, *result,
                 slot.mask);
      if (history != nullptr) slot.history.add_output(result->token);
      sampler.last.view(DType::kI32, {static_cast<int64_t>(sampler.slots.size())}).as<int32_t>()[entry[1]] =
          result->token;
    }
  });
}

}  // namespace sluice
