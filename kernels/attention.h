// SPDX-License-Identifier: Apache-2.0
// Causal attention over the paged cache (cache.h). Everything that varies per step is on the device.
#pragma once

#include "cache.h"

namespace sluice::kernels {

// Row r of sequence s has position context[s] - (first_row[s + 1] - first_row[s]) + (r - first_row[s]) and sees keys
// 0 .. position, of which the last `window` where window > 0; with all_keys it sees 0 .. context[s] - 1. score = scale
// * q.k, capped where soft_cap > 0, + slope * (key - position), or + distance_bias[head][key - position + reach] with
// that index kept inside the row. With slopes_rounded: score = scale * (q.k + bf16(slope * key)). sinks[head] is one
// more score of the softmax, which gives no value. Rows at and beyond first_row[seqs] get zeros.
struct AttentionParams {
  void* out;                   // type [rows, n_heads * head_dim]
  const void* q;               // type [rows, n_heads * head_dim]
  void *k_cache, *v_cache;     // type
  const int32_t* first_row;    // [seqs + 1]
  const int32_t* context;      // [seqs]
  const int32_t* block_table;  // [seqs, block_table_stride]
  const float* alibi_slopes;   // [n_heads] or null
  const float* distance_bias;  // [n_heads, 2 * reach + 1], rows `bias_stride` apart, or null
  const float* sinks;          // [n_heads] or null
  void* workspace;             // attention_workspace_bytes(), zeroed once before first use
  int64_t rows, seqs;          // bucket sizes
  int64_t out_stride, q_stride, block_stride, block_table_stride, bias_stride;
  int32_t n_heads, n_kv_heads, head_dim, block_size, reach;
  int32_t window;  // 0: all keys
  int32_t blocks;  // that share the keys of rows that decode; see attention_blocks()
  float scale;
  bool decode_only;    // no sequence has more than one row: launches the decode kernel alone
  bool deterministic;  // one order of summation for a row, decoded or prefilled, whatever the bucket; `blocks` and
                       // workspace are not used
  bool slopes_rounded, all_keys;
  float soft_cap;  // scores become cap * tanh(score / cap) before slope and mask; 0: they stay
  Type type;
};

// One or two kernels: sequences with one row are decoded, those with more are prefilled.
cudaError_t attention(const AttentionParams& p, cudaStream_t stream);

// rope_and_cache, then attention over the same cache. Where decode_only and the attention is a tensor core's, one
// kernel does both: q is then left as it was, and the keys and values go to the cache from the block that needs them.
cudaError_t rope_and_attention(const RopeCacheParams& rope, const AttentionParams& p, cudaStream_t stream);

// Blocks that a device of `multiprocessors` holds at once.
int attention_blocks(int multiprocessors, int64_t head_dim);
size_t attention_workspace_bytes(int blocks, int64_t head_dim);

}  // namespace sluice::kernels
