// SPDX-License-Identifier: Apache-2.0
// Rows of which nothing but a token is asked, the likeliest or one drawn from all: several blocks take a part each.
// Included by sampling.cu alone, which is compiled without contraction of multiply and add.
#pragma once

#include "sampling_scores.h"
#include "tensor_core.h"

namespace sluice::kernels {
namespace {

constexpr int kMostParts = kWarpSize;
constexpr int kLeastOfPart = 256;  // scores

struct SplitParams {
  SampleParams all;
  int32_t parts;  // of each row; 0: of none
};

// What the blocks of a row tell each other, in the row's scratch.
struct PlainRow {
  uint32_t arrived, unused[3];
  struct Part {
    double value;  // of the pick
    float top;
    int32_t first, pick, unused;
  } parts[kMostParts];
};
__device__ __forceinline__ PlainRow& plain_row(const SampleParams& p, int64_t entry) {
  const auto at = reinterpret_cast<uintptr_t>(p.scratch + entry * p.vocab);
  return *reinterpret_cast<PlainRow*>((at + 15) / 16 * 16);
}

__device__ __forceinline__ bool penalised(const SlotParams& slot) {
  return slot.repetition_penalty != 1.0f || slot.frequency_penalty != 0.0f || slot.presence_penalty != 0.0f;
}
__device__ __forceinline__ bool filtered(const SlotParams& slot, int64_t vocab) {
  return (slot.top_k > 0 && slot.top_k < vocab) || slot.top_p < 1.0f || slot.min_p > 0.0f || slot.typical_p < 1.0f ||
         slot.epsilon_cutoff > 0.0f || slot.eta_cutoff > 0.0f;
}
// entry: row of logits, slot, position, target.
__device__ __forceinline__ bool is_plain(const SampleParams& p, const int32_t* entry) {
  if (entry[0] < 0 || entry[1] < 0 || entry[3] != -1) return false;
  const SlotParams& slot = p.slots[entry[1]];
  return slot.n_logprobs < 0 && !penalised(slot) && (slot.greedy != 0 || !filtered(slot, p.vocab)) &&
         !changes_scores(slot, entry[2]) && (p.sequences == nullptr || p.sequences[entry[1]].ids == nullptr);
}

// Grid: (n, parts), 512 threads: a part of one entry's row each. Job: the largest score and the first id that has it.
// Precondition: that of sample_kernel, which follows; vocab is at least 256. Bytes moved: vocab * 4 per plain row.
__global__ void __launch_bounds__(kThreads) peaks_kernel(const SplitParams s) {
  const SampleParams& p = s.all;
  Work& work = *shared_as<Work>();
  let_next_begin();
  after_previous();
  const int32_t* entry = p.entries + int64_t{blockIdx.x} * 4;
  if (!is_plain(p, entry)) return;
  float top = kNever;
  int first = static_cast<int>(p.vocab);
  each_four(p.logits + int64_t{entry[0]} * p.logits_stride, first, static_cast<int>(blockIdx.y), s.parts,
            [&](int i, const float(&four)[4]) {
#pragma unroll
              for (int w = 0; w < 4; ++w) {
                if (!(finite(four[w]) > top)) continue;
                top = finite(four[w]);
                first = i + w;
              }
            });
  block_first(top, first, work.maxima, work.ids);
  if (threadIdx.x != 0) return;
  PlainRow& row = plain_row(p, blockIdx.x);
  if (blockIdx.y == 0) row.arrived = 0;
  row.parts[blockIdx.y].top = top;
  row.parts[blockIdx.y].first = first;
}

// A block's share of a plain row, whose peaks are known. The last of the blocks that draw has the token.
__device__ void sample_plain(const SplitParams& s, const int32_t* entry, Work& work) {
  const SampleParams& p = s.all;
  const SlotParams& slot = p.slots[entry[1]];
  PlainRow& row = plain_row(p, blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, part = static_cast<int>(blockIdx.y);
  const int vocab = static_cast<int>(p.vocab);
  float top = lane < s.parts ? row.parts[lane].top : kNever;
  int token = lane < s.parts ? row.parts[lane].first : vocab;
  warp_first(top, token);
  if (top == kNever || slot.greedy != 0) {
    if (part != 0) return;
    if (top == kNever) token = 0;  // nothing may come: a caller's contradiction, kept harmless
  } else {
    const Noise noise(slot.seed, slot.choice, entry[2]);
    Draw draw(noise, 0.0f, token);
    each_four(p.logits + int64_t{entry[0]} * p.logits_stride, vocab, part, s.parts, [&](int i, const float(&four)[4]) {
      float scores[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) scores[w] = (finite(four[w]) - top) / slot.temperature;
      draw.consider(noise, i, scores);
    });
    block_first(draw.value, draw.id, work.sums, work.ids);
    if (threadIdx.x == 0) {
      row.parts[part].value = draw.value;
      row.parts[part].pick = draw.id;
      __threadfence();
      work.reached = atomicAdd(&row.arrived, 1u) == static_cast<uint32_t>(s.parts) - 1 ? 1 : 0;
    }
    __syncthreads();
    if (work.reached == 0) return;
    __threadfence();
    double value = lane < s.parts ? row.parts[lane].value : static_cast<double>(kNever);
    token = lane < s.parts ? row.parts[lane].pick : vocab;
    warp_first(value, token);
  }
  if (threadIdx.x != 0) return;
  TokenResult result{};
  result.token = token;
  p.out[blockIdx.x] = result;
  p.last[entry[1]] = token;
}

// Blocks that share a row, so that n rows fill a device.
inline int parts_of(int64_t n, int64_t vocab) {
  constexpr int64_t kBlocks = 512;
  const int64_t wanted = n > 0 && kBlocks / n > 1 ? kBlocks / n : 1, most = vocab / kLeastOfPart;
  const int64_t parts = wanted < most ? wanted : most;
  return static_cast<int>(parts < kMostParts ? parts : kMostParts);
}

}  // namespace
}  // namespace sluice::kernels
