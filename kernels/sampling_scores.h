// SPDX-License-Identifier: Apache-2.0
// What changes scores before any token is dropped by probability, as src/sample/processors.h and in its order. Included
// by sampling.cu alone. Functions are called by all threads of a block alike.
#pragma once

#include "sampling_row.h"

namespace sluice::kernels {
namespace {

__device__ __forceinline__ void never(float* scores, int vocab, int32_t id) {
  if (id >= 0 && id < vocab) scores[id] = kNever;  // named twice, written twice alike
}
__device__ __forceinline__ void never_any(float* scores, int vocab, const IdList& list) {
  for (int i = static_cast<int>(threadIdx.x); i < list.n; i += kThreads) never(scores, vocab, list.ids[i]);
}

// Beside penalties and what depends on the sequence.
__device__ __forceinline__ bool changes_scores(const SlotParams& slot, int64_t position) {
  return slot.n_bias > 0 || slot.watermark_gamma > 0.0f || (position < slot.eos_from && slot.eos.n > 0) ||
         slot.n_forced > 0 || (position > slot.decay_from && slot.decay_factor != 1.0f) || slot.suppress.n > 0 ||
         (position == slot.begin_position && slot.begin_suppress.n > 0) || slot.allowed.n > 0 || slot.mask != nullptr;
}

// `before` is the token that the sequence ends with.
__device__ void add_watermark(const SlotParams& slot, float* scores, int vocab, int32_t before) {
  const Watermark mark(before, static_cast<uint32_t>(vocab));
  const auto green = static_cast<uint32_t>(static_cast<double>(slot.watermark_gamma) * static_cast<double>(vocab));
  for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kThreads)
    if (mark.rank(static_cast<uint32_t>(i)) < green) scores[i] += slot.watermark_delta;
}

__device__ void add_bias(const SlotParams& slot, float* scores, int vocab) {
  for (int i = static_cast<int>(threadIdx.x); i < slot.n_bias; i += kThreads) {
    const int32_t id = slot.logit_bias[i].id;
    bool first = id >= 0 && id < vocab;
    for (int j = 0; j < i && first; ++j) first = slot.logit_bias[j].id != id;
    for (int j = i; first && j < slot.n_bias; ++j) {
      if (slot.logit_bias[j].id == id) scores[id] += slot.logit_bias[j].bias;
    }
  }
}

__device__ void penalise(const SlotParams& slot, const uint16_t* counts, float* scores, int vocab) {
  for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kThreads) {
    const uint16_t cell = counts[i];
    if (cell == 0) continue;
    float s = scores[i];
    if (slot.repetition_penalty != 1.0f) s = s < 0 ? s * slot.repetition_penalty : s / slot.repetition_penalty;
    if (const int count = cell & 0x7fff) {
      s -= slot.frequency_penalty * static_cast<float>(count) + slot.presence_penalty;
    }
    scores[i] = s;
  }
}

// Whether ids[0, n) are what the sequence ends with.
__device__ __forceinline__ bool ends_with(const TokenSequence& sequence, const int32_t* ids, int64_t n) {
  if (n > sequence.n) return false;
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] != sequence.ids[sequence.n - n + i]) return false;
  }
  return true;
}

__device__ void ban_repeats(const SlotParams& slot, const TokenSequence& sequence, float* scores, int vocab) {
  const int64_t n = slot.no_repeat_ngram;
  if (n > 0) {
    for (int64_t i = threadIdx.x; i + n <= sequence.n; i += kThreads) {
      if (ends_with(sequence, sequence.ids + i, n - 1)) never(scores, vocab, sequence.ids[i + n - 1]);
    }
  }
  int word = 0;
  for (int32_t at = 0; at < slot.bad_words.n; at += 1 + slot.bad_words.ids[at], ++word) {
    if (word % kThreads != static_cast<int>(threadIdx.x)) continue;
    const int32_t length = slot.bad_words.ids[at];
    const int32_t* ids = slot.bad_words.ids + at + 1;
    // As on the host: several tokens that are more than all that came so far are not looked for.
    if ((length == 1 || length <= sequence.n) && ends_with(sequence, ids, length - 1))
      never(scores, vocab, ids[length - 1]);
  }
}

// By squaring, as on the host.
__device__ double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base *= base) {
    if (exponent % 2 != 0) result *= base;
  }
  return result;
}

__device__ bool holds(const IdList& ascending, int32_t id) {
  int32_t low = 0, high = ascending.n;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (ascending.ids[middle] < id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < ascending.n && ascending.ids[low] == id;
}

// From `logits` to `scores`, both [vocab]. counts and sequence: null where the slot has none.
__device__ void process_scores(const SlotParams& slot, const uint16_t* counts, const TokenSequence* sequence,
                               const float* logits, float* scores, int vocab, int64_t position, int32_t before) {
  const int tid = static_cast<int>(threadIdx.x);
  for (int i = tid; i < vocab; i += kThreads) scores[i] = logits[i];
  if (slot.watermark_gamma > 0.0f) add_watermark(slot, scores, vocab, before);  // each thread its own scores
  __syncthreads();
  add_bias(slot, scores, vocab);
  __syncthreads();
  if (counts != nullptr) penalise(slot, counts, scores, vocab);
  __syncthreads();
  if (sequence != nullptr) ban_repeats(slot, *sequence, scores, vocab);
  if (position < slot.eos_from) never_any(scores, vocab, slot.eos);
  __syncthreads();
  bool forced = false;
  for (int i = 0; i < slot.n_forced; ++i) forced = forced || slot.forced[i].position == position;
  if (forced) {
    for (int i = tid; i < vocab; i += kThreads) scores[i] = kNever;
    __syncthreads();
    for (int i = tid; i < slot.n_forced; i += kThreads) {
      const TokenAt& f = slot.forced[i];
      if (f.position == position && f.id >= 0 && f.id < vocab) scores[f.id] = 0;
    }
    __syncthreads();
  }
  if (position > slot.decay_from && slot.decay_factor != 1.0f && tid == 0) {
    const double factor = power(static_cast<double>(slot.decay_factor), position - slot.decay_from);
    const float gain = static_cast<float>(factor - 1.0);
    for (int i = 0; i < slot.decay.n; ++i) {
      const int32_t id = slot.decay.ids[i];
      if (id >= 0 && id < vocab && scores[id] > kNever) scores[id] += fabsf(scores[id]) * gain;
    }
  }
  __syncthreads();
  never_any(scores, vocab, slot.suppress);
  if (position == slot.begin_position) never_any(scores, vocab, slot.begin_suppress);
  __syncthreads();
  if (slot.allowed.n > 0 || slot.mask != nullptr) {
    for (int i = tid; i < vocab; i += kThreads) {
      const bool masked = slot.mask != nullptr && (slot.mask[i / 32] >> (i % 32) & 1) == 0;
      if (masked || (slot.allowed.n > 0 && !holds(slot.allowed, i))) scores[i] = kNever;
    }
  }
  __syncthreads();
}

}  // namespace
}  // namespace sluice::kernels
