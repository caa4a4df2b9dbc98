// SPDX-License-Identifier: Apache-2.0
// Paged attention with a running softmax over cache blocks in order. A row sees keys 0 .. position in blocks that start
// at multiples of the block size, whatever chunk it came in and whatever else is in the batch: its result is always the
// same.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/simd.h"
#include "base/error.h"

namespace sluice {
namespace {
constexpr int32_t kTileRows = 16;  // rows that share one widened cache block
constexpr float kNone = -3.0e38f;
}  // namespace

void CpuBackend::attention(const Tensor& out, const Tensor& q, const BatchView& batch, int group,
                           const AttentionShape& shape, const CacheLayer& cache) {
  const int64_t block = cache.k.dim(2);
  check(block % 16 == 0, "the cache block size is a multiple of 16 on the CPU");
  check(shape.n_heads % shape.n_kv_heads == 0, "query heads divide evenly over key-value heads");
  const auto* first_row = batch.first_row.as<int32_t>();
  const auto* context = batch.context.as<int32_t>();
  pieces_.clear();
  int64_t work = 0;
  for (int32_t s = 0; s < batch.seqs; ++s) {
    const int32_t rows = first_row[s + 1] - first_row[s];
    work += static_cast<int64_t>(rows) * context[s] * shape.n_heads * shape.head_dim;
    for (int32_t r = 0; r < rows; r += kTileRows)
      pieces_.push_back({s, first_row[s] + r, std::min(kTileRows, rows - r)});
  }
  const auto n = static_cast<int64_t>(pieces_.size()) * shape.n_kv_heads;
  constexpr int64_t kWorthThreads = 65536;
  pool_.split(n, work < kWorthThreads ? std::max<int64_t>(n, 1) : 1, [&](int64_t begin, int64_t end, int thread) {
    // The last pieces of a long prompt have the most keys: they go first.
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = n - 1 - i;
      attend_piece(pieces_[static_cast<size_t>(at / shape.n_kv_heads)], at % shape.n_kv_heads, out, q, batch, group,
                   shape, cache, attention_[static_cast<size_t>(thread)]);
    }
  });
}

void CpuBackend::attend_piece(const AttentionPiece& piece, int64_t kv_head, const Tensor& out, const Tensor& q,
                              const BatchView& batch, int group, const AttentionShape& shape, const CacheLayer& cache,
                              AttentionScratch& scratch) const {
  const int64_t dim = shape.head_dim, block = cache.k.dim(2), heads = shape.n_heads / shape.n_kv_heads;
  const size_t size = static_cast<size_t>(dim * block);
  const size_t n_states = static_cast<size_t>(piece.rows * heads);
  if (scratch.keys.size() < size) {
    scratch.keys.resize(size);
    scratch.values.resize(size);
    scratch.scores.resize(static_cast<size_t>(2 * block));
  }
  if (scratch.query.size() < n_states * static_cast<size_t>(dim))
    scratch.query.resize(n_states * static_cast<size_t>(dim));
  if (scratch.state.size() < 2 * n_states) scratch.state.resize(2 * n_states);
  float *maxima = scratch.state.data(), *sums = maxima + n_states;

  const int64_t s = piece.sequence;
  const int64_t last_row = batch.first_row.as<int32_t>()[s + 1] - 1;
  const int64_t last_position = batch.context.as<int32_t>()[s] - 1;
  const auto position = [&](int64_t row) { return last_position - (last_row - row); };
  for (int64_t r = 0; r < piece.rows; ++r) {
    for (int64_t h = 0; h < heads; ++h) {
      const size_t i = static_cast<size_t>(r * heads + h);
      const int64_t column = (kv_head * heads + h) * dim;
      float* query = scratch.query.data() + i * static_cast<size_t>(dim);
      std::memcpy(query, static_cast<const float*>(q.row(piece.first_row + r)) + column,
                  static_cast<size_t>(dim) * sizeof(float));
      simd::scale(query, shape.scale, dim);
      std::memset(static_cast<float*>(out.row(piece.first_row + r)) + column, 0,
                  static_cast<size_t>(dim) * sizeof(float));
      maxima[i] = kNone;
      sums[i] = 0;
    }
  }

  const auto* table = static_cast<const int32_t*>(batch.cache[group].block_table.row(s));
  const size_t width = dtype_bytes(cache.k.dtype);
  const int64_t first_key = shape.window > 0 ? std::max<int64_t>(0, position(piece.first_row) - shape.window + 1) : 0;
  const int64_t last_key = position(piece.first_row + piece.rows - 1);
  for (int64_t b = first_key / block; b <= last_key / block; ++b) {
    const size_t at = static_cast<size_t>((table[b] * shape.n_kv_heads + kv_head) * block * dim) * width;
    simd::widen(scratch.keys.data(), static_cast<const uint8_t*>(cache.k.data) + at, cache.k.dtype, dim * block);
    simd::widen(scratch.values.data(), static_cast<const uint8_t*>(cache.v.data) + at, cache.v.dtype, dim * block);
    for (int64_t r = 0; r < piece.rows; ++r) {
      const int64_t here = position(piece.first_row + r);
      const int64_t oldest = shape.window > 0 ? std::max<int64_t>(0, here - shape.window + 1) : 0;
      const int64_t first = std::max<int64_t>(oldest - b * block, 0), last = std::min(here + 1 - b * block, block);
      if (first >= last) continue;
      for (int64_t h = 0; h < heads; ++h) {
        const size_t i = static_cast<size_t>(r * heads + h);
        const int64_t head = kv_head * heads + h;
        float* bias = nullptr;
        if (shape.alibi_slopes) {
          bias = scratch.scores.data() + block;
          for (int64_t j = 0; j < block; ++j)
            bias[j] = shape.alibi_slopes.as<float>()[head] * static_cast<float>(b * block + j);
        }
        simd::attend({scratch.keys.data(), scratch.values.data(), dim, block,
                      scratch.query.data() + i * static_cast<size_t>(dim), first, last, bias,
                      static_cast<float*>(out.row(piece.first_row + r)) + head * dim, maxima + i, sums + i,
                      scratch.scores.data()});
      }
    }
  }
  for (int64_t r = 0; r < piece.rows; ++r) {
    for (int64_t h = 0; h < heads; ++h)
      simd::scale(static_cast<float*>(out.row(piece.first_row + r)) + (kv_head * heads + h) * dim,
                  1.0f / sums[r * heads + h], dim);
  }
}

}  // namespace sluice
