// SPDX-License-Identifier: Apache-2.0
// Sampling state on the device: parameters, token counts and last tokens of every slot.
#include "kernels/sampling.h"

#include <algorithm>
#include <cstddef>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"

namespace sluice::cuda {
namespace {

static_assert(sizeof(kernels::TokenResult) == sizeof(SampledToken) && kernels::kMaxTop == kMaxTopLogprobs &&
              offsetof(kernels::TokenResult, top_logprobs) == offsetof(SampledToken, top_logprobs));
static_assert(sizeof(kernels::TokenBias) == sizeof(LogitBias));

struct CudaSampler final : SamplerState {
  CudaSampler(int64_t slots, int64_t vocab) : slots(slots), vocab(vocab), stride((vocab + 1) / 2 * 2) {}
  Tensor last_tokens() const override { return last.view(DType::kI32, {slots}); }
  uint16_t* counts_of(int64_t slot) const { return static_cast<uint16_t*>(counts.data()) + slot * stride; }

  int64_t slots, vocab, stride;  // stride: of counts, elements
  Buffer params;                 // SlotParams [slots]
  Buffer counts;                 // u16 [slots, stride]
  Buffer last;                   // i32 [slots]
  Buffer history;                // i32: ids on their way into counts
  std::vector<Buffer> lists;     // [slots]: ends of sequence, then biases
};

}  // namespace

std::unique_ptr<SamplerState> CudaBackend::make_sampler(int64_t slots, int64_t vocab) {
  auto sampler = std::make_unique<CudaSampler>(slots, vocab);
  sampler->params = allocate(static_cast<size_t>(slots) * sizeof(kernels::SlotParams));
  sampler->counts = allocate(static_cast<size_t>(slots * sampler->stride) * sizeof(uint16_t));
  sampler->last = allocate(static_cast<size_t>(slots) * sizeof(int32_t));
  sampler->lists.resize(static_cast<size_t>(slots));
  return sampler;
}

void CudaBackend::set_slot(SamplerState& state, int64_t slot, const SamplingParams& params, const int32_t* history,
                           int64_t n_history, int64_t n_output) {
  auto& sampler = static_cast<CudaSampler&>(state);
  check(slot >= 0 && slot < sampler.slots, "a sampling slot is out of range");
  const auto bytes = [](const Buffer& buffer, size_t offset, size_t n) {
    return buffer.view(DType::kU8, {static_cast<int64_t>(n)}, offset);
  };
  kernels::SlotParams p{};
  p.greedy = params.greedy ? 1 : 0;
  p.temperature = params.temperature;
  p.top_k = params.top_k;
  p.top_p = params.top_p;
  p.min_p = params.min_p;
  p.typical_p = params.typical_p;
  p.repetition_penalty = params.repetition_penalty;
  p.frequency_penalty = params.frequency_penalty;
  p.presence_penalty = params.presence_penalty;
  p.choice = params.choice;
  p.seed = params.seed;
  p.n_logprobs = params.n_logprobs;
  p.raw_logprobs = params.raw_logprobs ? 1 : 0;
  p.eos_from = params.eos_from;
  p.n_eos = static_cast<int32_t>(params.eos_ids.size());
  p.n_bias = static_cast<int32_t>(params.logit_bias.size());
  if (p.n_eos + p.n_bias > 0) {
    const size_t eos = params.eos_ids.size() * sizeof(int32_t), bias_at = (eos + 15) / 16 * 16;
    const size_t bias = params.logit_bias.size() * sizeof(LogitBias);
    Buffer& list = sampler.lists[static_cast<size_t>(slot)];
    if (list.bytes() < bias_at + bias) list = allocate(2 * (bias_at + bias));
    if (eos > 0) copy_in(bytes(list, 0, eos), params.eos_ids.data());
    if (bias > 0) copy_in(bytes(list, bias_at, bias), params.logit_bias.data());
    p.eos_ids = static_cast<const int32_t*>(list.data());
    p.logit_bias = reinterpret_cast<const kernels::TokenBias*>(static_cast<const char*>(list.data()) + bias_at);
  }
  copy_in(bytes(sampler.params, static_cast<size_t>(slot) * sizeof p, sizeof p), &p);
  if (!params.has_penalty()) return;
  const size_t needed = static_cast<size_t>(std::max<int64_t>(1, n_history)) * sizeof(int32_t);
  if (sampler.history.bytes() < needed) sampler.history = allocate(2 * needed);
  if (n_history > 0) copy_in(sampler.history.view(DType::kI32, {n_history}), history);
  kernels::HistoryParams h{};
  h.counts = sampler.counts_of(slot);
  h.history = static_cast<const int32_t*>(sampler.history.data());
  h.vocab = sampler.vocab;
  h.n_history = n_history;
  h.n_output = n_output;
  SLUICE_CUDA(kernels::set_history(h, stream_));
}

void CudaBackend::resolve_tokens(SamplerState& state, const Tensor& tokens, const Tensor& slots) {
  kernels::ResolveParams p{};
  p.tokens = tokens.as<int32_t>();
  p.slots = slots.as<int32_t>();
  p.last = static_cast<CudaSampler&>(state).last_tokens().as<int32_t>();
  p.rows = tokens.dim(0);
  SLUICE_CUDA(kernels::resolve_tokens(p, stream_));
}

void CudaBackend::sample(SamplerState& state, const Tensor& out, const Tensor& logits, const Tensor& rows) {
  auto& sampler = static_cast<CudaSampler&>(state);
  check(out.dim(1) == static_cast<int64_t>(sizeof(SampledToken)) && logits.dim(1) == sampler.vocab &&
            logits.dtype == DType::kF32 && rows.dim(1) == 4 && rows.contiguous(),
        "sample: shapes do not fit");
  kernels::SampleParams p{};
  p.out = out.as<kernels::TokenResult>();
  p.logits = logits.as<float>();
  p.entries = rows.as<int32_t>();
  p.slots = static_cast<const kernels::SlotParams*>(sampler.params.data());
  p.counts = static_cast<uint16_t*>(sampler.counts.data());
  p.last = sampler.last_tokens().as<int32_t>();
  p.n = rows.dim(0);
  p.vocab = sampler.vocab;
  p.logits_stride = logits.row_stride;
  p.counts_stride = sampler.stride;
  p.scratch = static_cast<float*>(sample_work_.reserve(static_cast<size_t>(p.n * p.vocab) * sizeof(float), stream_));
  SLUICE_CUDA(kernels::sample(p, stream_));
}

}  // namespace sluice::cuda
