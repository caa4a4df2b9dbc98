// SPDX-License-Identifier: Apache-2.0
// Compiled without contraction of multiply and add: sums and roundings are those of src/sample.
#include "sampling.h"

#include "device.h"
#include "launch.h"
#include "sampling_plain.h"

namespace sluice::kernels {
namespace {

// Grid: (n, parts or 1), 512 threads: one entry each; of plain rows the blocks of an entry take a part each, of others
// the first takes all. Job: from a row of logits to a token, as sample_row and score_row of
// src/sample/sampler.cpp. Precondition: vocab is at most 2^19 for exact masses; ids are inside their arrays.
// Bytes moved: vocab * 4 once for a greedy row, twice and once written for a plain draw, four times more per filter.
__global__ void __launch_bounds__(kThreads) sample_kernel(const SplitParams s) {
  const SampleParams& p = s.all;
  Work& work = *shared_as<Work>();
  after_previous();
  const int32_t* entry = p.entries + int64_t{blockIdx.x} * 4;
  const int32_t slot_id = entry[1], target = entry[3];
  const int64_t position = entry[2];
  if (entry[0] < 0 || slot_id < 0) return;
  if (s.parts > 0 && is_plain(p, entry)) return sample_plain(s, entry, work);
  if (blockIdx.y != 0) return;
  const SlotParams& slot = p.slots[slot_id];
  const float* logits = p.logits + int64_t{entry[0]} * p.logits_stride;
  float* scores = p.scratch + int64_t{blockIdx.x} * p.vocab;
  TokenResult& out = p.out[blockIdx.x];
  Row row{work, reinterpret_cast<float*>(&work + 1), static_cast<int>(p.vocab)};
  const bool leader = threadIdx.x == 0;
  const auto raw_score = [&](int i) { return logits[i]; };

  if (target >= 0) {
    const float top = row.row_max(raw_score);
    const double lse = static_cast<double>(top) + fixed_log(row.row_mass(raw_score, top));
    row.report_top(raw_score, slot.n_logprobs, lse, out);
    const float own = finite(logits[target]);
    double better = 0;
    for (int i = row.tid; i < row.vocab; i += kThreads) {
      const float s = finite(logits[i]);
      if (s > own || (s == own && i < target)) better += 1;
    }
    better = row.sum(better);
    if (leader) {
      out.token = target;
      out.logprob = static_cast<float>(static_cast<double>(own) - lse);
      out.rank = 1 + static_cast<int32_t>(better);
    }
    return;
  }
  const bool penalty = penalised(slot);
  uint16_t* counts = penalty ? p.counts + slot_id * p.counts_stride : nullptr;
  const bool raw = slot.n_logprobs >= 0 && slot.raw_logprobs != 0;
  const bool drawn = slot.n_logprobs >= 0 && slot.raw_logprobs == 0;
  double raw_lse = 0;
  int n_top = 0;
  if (raw) {
    const float top = row.row_max(raw_score);
    raw_lse = static_cast<double>(top) + fixed_log(row.row_mass(raw_score, top));
    n_top = slot.n_logprobs;
  }
  row.report_top(raw_score, n_top, raw_lse, out);  // of nothing: clears

  TokenSequence* sequence = p.sequences != nullptr ? p.sequences + slot_id : nullptr;
  if (sequence != nullptr && sequence->ids == nullptr) sequence = nullptr;
  if (target < -1) {  // best_of_row of src/sample/sampler.h
    const float top = row.row_max(raw_score);
    const double lse = static_cast<double>(top) + fixed_log(row.row_mass(raw_score, top));
    for (int i = row.tid; i < row.vocab; i += kThreads)
      scores[i] = static_cast<float>(static_cast<double>(finite(logits[i])) - lse);
    __syncthreads();
    if (penalty || sequence != nullptr || changes_scores(slot, position))
      process_scores(slot, counts, sequence, scores, scores, row.vocab, position, p.last[slot_id]);
    row.drop_best(scores, (-2 - target) * kMaxTop);
    row.report_top([&](int i) { return scores[i]; }, kMaxTop, 0.0, out);
    if (leader) {
      out.token = 0;
      out.logprob = 0;
      out.rank = 0;
      if (target == -2 && out.n_top == 0) {
        out.n_top = 1;
        out.top_logprobs[0] = kNever;
      }
    }
    return;
  }
  const float* from = logits;
  if (penalty || sequence != nullptr || changes_scores(slot, position)) {
    process_scores(slot, counts, sequence, logits, scores, row.vocab, position, p.last[slot_id]);
    from = scores;
  }
  const auto score = [&](int i) { return from[i]; };
  const float top = row.row_max(score);
  int token = 0;
  float logprob = 0;
  if (top == kNever) {  // nothing may come: a caller's contradiction, kept harmless
    logprob = slot.n_logprobs >= 0 ? kNever : 0.0f;
  } else if (slot.greedy != 0) {
    int first = row.vocab;
    for (int i = row.tid; i < row.vocab && first == row.vocab; i += kThreads) {
      if (finite(from[i]) == top) first = i;
    }
    token = row.min_id(first);
    if (drawn) {
      const double lse = static_cast<double>(top) + fixed_log(row.row_mass(score, top));
      logprob = static_cast<float>(static_cast<double>(top) - lse);
      row.report_top(score, slot.n_logprobs, lse, out);
    }
  } else {
    row.sweep(score, [&](int i, float s) { scores[i] = (finite(s) - top) / slot.temperature; });
    __syncthreads();
    const auto left = [&](int i) { return scores[i]; };
    bool whole = true;
    const auto mass = [&] { return whole ? row.row_mass(left, 0) : row.mass_left(left); };
    if (slot.top_k > 0 && slot.top_k < row.vocab) {
      row.keep_top_k(scores, slot.top_k);
      whole = false;
    }
    if (slot.top_p < 1.0f) {
      row.keep_top_p(scores, mass(), slot.top_p);
      whole = false;
    }
    if (slot.min_p > 0.0f) {
      row.keep_min_p(scores, slot.min_p);
      whole = false;
    }
    if (slot.typical_p < 1.0f) {
      row.keep_typical(scores, mass(), slot.typical_p);
      whole = false;
    }
    if (slot.epsilon_cutoff > 0.0f) {
      row.keep_likely(scores, mass(), static_cast<double>(slot.epsilon_cutoff));
      whole = false;
    }
    if (slot.eta_cutoff > 0.0f) {
      row.keep_eta(scores, mass(), slot.eta_cutoff);
      whole = false;
    }
    token = row.draw(scores, slot, position);
    if (drawn) {
      const double lse = fixed_log(mass());
      logprob = static_cast<float>(static_cast<double>(scores[token]) - lse);
      row.report_top(left, slot.n_logprobs, lse, out);
    }
  }
  if (!leader) return;
  if (raw && top != kNever) logprob = static_cast<float>(static_cast<double>(finite(logits[token])) - raw_lse);
  out.token = token;
  out.logprob = logprob;
  out.rank = 0;
  p.last[slot_id] = token;
  if (counts != nullptr && (counts[token] & 0x7fff) != 0x7fff) ++counts[token];
  if (sequence != nullptr && sequence->n < sequence->room) sequence->ids[sequence->n++] = token;
}

// Grid: (1), 512 threads. Job: clears the slot's counts, then counts its history. Bytes moved: 2 vocab + 4 n_history.
__global__ void __launch_bounds__(kThreads) history_kernel(const HistoryParams p) {
  uint32_t* words = reinterpret_cast<uint32_t*>(p.counts);  // two cells each; the stride between slots is even
  for (int64_t i = threadIdx.x; i < (p.vocab + 1) / 2; i += kThreads) words[i] = 0;
  __syncthreads();
  const int64_t prompt = p.n_history - p.n_output;
  for (int64_t i = threadIdx.x; i < p.n_history; i += kThreads) {
    const int32_t id = p.history[i];
    if (id < 0 || id >= p.vocab) continue;
    uint32_t* word = words + id / 2;
    const int shift = id % 2 * 16;
    if (i < prompt) {
      atomicOr(word, 0x8000u << shift);
      continue;
    }
    uint32_t old = atomicOr(word, 0u), seen;
    do {
      seen = old;
      if ((seen >> shift & 0x7fffu) == 0x7fffu) break;  // counts saturate
      old = atomicCAS(word, seen, seen + (1u << shift));
    } while (old != seen);
  }
}

// Grid: (rows / 512). Job: one token. Bytes moved: 12 per row.
__global__ void __launch_bounds__(kThreads) resolve_kernel(const ResolveParams p) {
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t < p.rows && p.tokens[t] < 0) p.tokens[t] = p.last[p.slots[t]];
}

}  // namespace

cudaError_t sample(const SampleParams& p, cudaStream_t stream) {
  const size_t lanes = static_cast<size_t>((p.vocab + 511) / 512) * 8;
  const SplitParams split{p, parts_of(p.n, p.vocab)};
  const dim3 grid(static_cast<unsigned>(p.n), static_cast<unsigned>(split.parts > 0 ? split.parts : 1));
  if (split.parts > 0) {
    const cudaError_t error =
        launch("sample_peaks", peaks_kernel, grid, kThreads, sizeof(Work), stream, split, Start::kEarly);
    if (error != cudaSuccess) return error;
  }
  return launch("sample", sample_kernel, grid, kThreads, sizeof(Work) + lanes * sizeof(float), stream, split,
                Start::kEarly);
}

cudaError_t set_history(const HistoryParams& p, cudaStream_t stream) {
  return launch("set_history", history_kernel, dim3(1), kThreads, 0, stream, p);
}

cudaError_t resolve_tokens(const ResolveParams& p, cudaStream_t stream) {
  return launch("resolve_tokens", resolve_kernel, dim3(blocks_for(p.rows, kThreads)), kThreads, 0, stream, p);
}

}  // namespace sluice::kernels
