// SPDX-License-Identifier: Apache-2.0
// How the keys of sequences with one row are dealt to blocks: in units of a few keys of a K/V head, numbered over the
// whole step on the device, where their number is known.
#pragma once

#include "attention.h"
#include "device.h"

namespace sluice::kernels {

constexpr int kDecodeRows = 16;  // of a tile: heads of a K/V head's group

// The units of one row tile of a sequence's K/V head, numbered over the whole step.
struct Span {
  int seq, kv_head, row_tile;
  int begin, end;
  int first;      // place of unit `begin` among the sequence's groups of 16 keys
  int low, high;  // keys that are seen
};

__device__ __forceinline__ int low_key(const AttentionParams& a, int context) {
  return a.window > 0 && context > a.window ? context - a.window : 0;
}
// Of `group` heads.
__device__ __forceinline__ int row_tiles(int group) { return (group + kDecodeRows - 1) / kDecodeRows; }

// Numbers the units of all sequences: ends[s] becomes the number after the last of sequence s. Returns that of the last
// sequence. `words` has room for one per warp.
template <int kKeys>
__device__ __forceinline__ int number_units(const AttentionParams& a, int group, int32_t* ends, int32_t* words) {
  const int seqs = static_cast<int>(a.seqs), threads = static_cast<int>(blockDim.x);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int each = (seqs + threads - 1) / threads, begin = static_cast<int>(threadIdx.x) * each;
  const int spans = a.n_kv_heads * row_tiles(group);
  int sum = 0;
#pragma unroll 1
  for (int s = begin; s < begin + each && s < seqs; ++s) {
    const int rows = a.first_row[s + 1] - a.first_row[s], context = a.context[s];
    if (rows == 1) sum += spans * ((context - 1) / kKeys - low_key(a, context) / kKeys + 1);
    ends[s] = sum;
  }
  int before = sum;  // and this thread's
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, before, step);
    if (lane >= step) before += other;
  }
  if (lane == kWarpSize - 1) words[warp] = before;
  before -= sum;
  __syncthreads();
  int total = 0;
#pragma unroll 1
  for (int w = 0; w < threads / kWarpSize; ++w) {
    if (w == warp) before += total;
    total += words[w];
  }
#pragma unroll 1
  for (int s = begin; s < begin + each && s < seqs; ++s) ends[s] += before;
  __syncthreads();
  return total;
}

template <int kKeys>
__device__ __forceinline__ Span span_of(const AttentionParams& a, int group, const int32_t* ends, int unit) {
  int seq = 0, beyond = static_cast<int>(a.seqs) - 1;
  while (seq < beyond) {
    const int middle = (seq + beyond) / 2;
    if (ends[middle] > unit) {
      beyond = middle;
    } else {
      seq = middle + 1;
    }
  }
  Span span;
  const int context = a.context[seq], begin = seq > 0 ? ends[seq - 1] : 0, tiles = row_tiles(group);
  span.seq = seq;
  span.low = low_key(a, context);
  span.high = context - 1;
  span.first = span.low / kKeys;
  const int units = span.high / kKeys - span.first + 1,
            index = static_cast<int>(static_cast<unsigned>(unit - begin) / static_cast<unsigned>(units));
  span.kv_head = tiles == 1 ? index : index / tiles;
  span.row_tile = index - span.kv_head * tiles;
  span.begin = begin + index * units;
  span.end = span.begin + units;
  return span;
}

}  // namespace sluice::kernels
