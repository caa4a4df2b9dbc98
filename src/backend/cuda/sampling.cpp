// SPDX-License-Identifier: Apache-2.0
// Sampling state on the device: parameters, token counts and last tokens of every slot.
#include "kernels/sampling.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"

namespace sluice::cuda {
namespace {

static_assert(sizeof(kernels::TokenResult) == sizeof(SampledToken) && kernels::kMaxTop == kMaxTopLogprobs &&
              offsetof(kernels::TokenResult, top_logprobs) == offsetof(SampledToken, top_logprobs));
static_assert(sizeof(kernels::TokenBias) == sizeof(LogitBias) && sizeof(kernels::TokenAt) == sizeof(ForcedToken));

// The lists of one slot, packed for one copy; places are offsets until the device's address is known.
class Lists {
 public:
  template <class T>
  size_t add(const std::vector<T>& values) {
    const size_t at = (bytes_.size() + 15) / 16 * 16, n = values.size() * sizeof(T);
    bytes_.resize(at + n);
    if (n > 0) std::memcpy(bytes_.data() + at, values.data(), n);
    return at;
  }
  const std::vector<char>& bytes() const { return bytes_; }

 private:
  std::vector<char> bytes_;
};

struct CudaSampler final : SamplerState {
  CudaSampler(int64_t slots, int64_t vocab)
      : slots(slots), vocab(vocab), stride((vocab + 1) / 2 * 2), words((vocab + 31) / 32) {}
  Tensor last_tokens() const override { return last.view(DType::kI32, {slots}); }
  uint16_t* counts_of(int64_t slot) const { return static_cast<uint16_t*>(counts.data()) + slot * stride; }

  int64_t slots, vocab, stride, words;  // stride: of counts, elements; words: of a mask
  Buffer params;                        // SlotParams [slots]
  Buffer sequences;                     // TokenSequence [slots]
  Buffer counts;                        // u16 [slots, stride]
  Buffer masks;                         // u32 [slots, words]
  Buffer last;                          // i32 [slots]
  Buffer history;                       // i32: ids on their way into counts
  std::vector<Buffer> lists;            // [slots]: what is listed by id
  std::vector<Buffer> ids;              // [slots]: of sequences
  std::vector<bool> has_sequence, masked;
};

}  // namespace

std::unique_ptr<SamplerState> CudaBackend::make_sampler(int64_t slots, int64_t vocab) {
  auto sampler = std::make_unique<CudaSampler>(slots, vocab);
  sampler->params = allocate(static_cast<size_t>(slots) * sizeof(kernels::SlotParams));
  sampler->counts = allocate(static_cast<size_t>(slots * sampler->stride) * sizeof(uint16_t));
  sampler->sequences = allocate(static_cast<size_t>(slots) * sizeof(kernels::TokenSequence));
  sampler->masks = allocate(static_cast<size_t>(slots * sampler->words) * sizeof(uint32_t));
  sampler->last = allocate(static_cast<size_t>(slots) * sizeof(int32_t));
  const auto n = static_cast<size_t>(slots);
  sampler->lists.resize(n);
  sampler->ids.resize(n);
  sampler->has_sequence.resize(n);
  sampler->masked.resize(n);
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
  p.epsilon_cutoff = params.epsilon_cutoff;
  p.eta_cutoff = params.eta_cutoff;
  p.no_repeat_ngram = params.no_repeat_ngram;
  p.decay_factor = params.decay_factor;
  p.eos_from = params.eos_from;
  p.watermark_gamma = params.watermark_gamma;
  p.watermark_delta = params.watermark_delta;
  p.decay_from = params.decay_from;
  p.begin_position = params.begin_position;

  Lists lists;
  const std::vector<int32_t>* of_ids[] = {&params.eos_ids,        &params.decay_ids, &params.suppress,
                                          &params.begin_suppress, &params.allowed,   &params.bad_words};
  kernels::IdList* places[] = {&p.eos, &p.decay, &p.suppress, &p.begin_suppress, &p.allowed, &p.bad_words};
  size_t at[std::size(places)];
  for (size_t i = 0; i < std::size(places); ++i) at[i] = lists.add(*of_ids[i]);
  const size_t bias_at = lists.add(params.logit_bias), forced_at = lists.add(params.forced);
  const auto own = static_cast<size_t>(slot);
  if (const std::vector<char>& packed = lists.bytes(); !packed.empty()) {
    Buffer& list = sampler.lists[own];
    if (list.bytes() < packed.size()) list = allocate(2 * packed.size());
    copy_in(bytes(list, 0, packed.size()), packed.data());
    const char* const base = static_cast<const char*>(list.data());
    for (size_t i = 0; i < std::size(places); ++i)
      *places[i] = {reinterpret_cast<const int32_t*>(base + at[i]), static_cast<int32_t>(of_ids[i]->size())};
    p.logit_bias = reinterpret_cast<const kernels::TokenBias*>(base + bias_at);
    p.n_bias = static_cast<int32_t>(params.logit_bias.size());
    p.forced = reinterpret_cast<const kernels::TokenAt*>(base + forced_at);
    p.n_forced = static_cast<int32_t>(params.forced.size());
  }
  copy_in(bytes(sampler.params, own * sizeof p, sizeof p), &p);
  sampler.masked[own] = false;

  const bool follows = params.no_repeat_ngram > 0 || !params.bad_words.empty();
  if (follows || sampler.has_sequence[own]) {
    kernels::TokenSequence sequence{};
    if (follows) {
      sequence.n = n_history;
      sequence.room = std::max(n_history, params.end_position);
      Buffer& ids = sampler.ids[own];
      const size_t room = static_cast<size_t>(std::max<int64_t>(1, sequence.room)) * sizeof(int32_t);
      if (ids.bytes() < room) ids = allocate(room);
      if (n_history > 0) copy_in(ids.view(DType::kI32, {n_history}), history);
      sequence.ids = static_cast<int32_t*>(ids.data());
    }
    copy_in(bytes(sampler.sequences, own * sizeof sequence, sizeof sequence), &sequence);
    sampler.has_sequence[own] = follows;
  }
  if (params.watermark_gamma > 0 && n_history > 0)  // the token before the first draw; a draw leaves the next
    copy_in(sampler.last.view(DType::kI32, {1}, own * sizeof(int32_t)), history + n_history - 1);
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

void CudaBackend::set_mask(SamplerState& state, int64_t slot, const uint32_t* words) {
  auto& sampler = static_cast<CudaSampler&>(state);
  check(slot >= 0 && slot < sampler.slots, "a sampling slot is out of range");
  const auto own = static_cast<size_t>(slot);
  uint32_t* const mask = static_cast<uint32_t*>(sampler.masks.data()) + slot * sampler.words;
  if (words != nullptr) {
    const size_t bytes = static_cast<size_t>(sampler.words) * sizeof(uint32_t);
    copy_in(sampler.masks.view(DType::kI32, {sampler.words}, own * bytes), words);
  }
  if (sampler.masked[own] == (words != nullptr)) return;
  sampler.masked[own] = words != nullptr;
  const uint32_t* const place = words != nullptr ? mask : nullptr;
  copy_in(sampler.params.view(DType::kU8, {sizeof place},
                              own * sizeof(kernels::SlotParams) + offsetof(kernels::SlotParams, mask)),
          &place);
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
  p.sequences = static_cast<kernels::TokenSequence*>(sampler.sequences.data());
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
