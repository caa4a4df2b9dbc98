// SPDX-License-Identifier: Apache-2.0
// One attention step over a paged cache, on the device and on the CPU backend.
#pragma once

#include <algorithm>
#include <numeric>
#include <optional>

#include "attention.h"
#include "cuda/device_arrays.h"

namespace sluice::test {

using kernels::AttentionParams;

struct Heads {
  int64_t n_heads = 4, n_kv_heads = 2, dim = 64, block = 16, window = 0;
  bool alibi = false;
  float cap = 0;
  bool rounded = false;         // slopes in two roundings
  bool all_keys = false;        // not causal
  int64_t reach = 0;            // > 0: bias by distance
  std::optional<float> sink{};  // of the first head; each further one has 0.1 more
};
struct Part {
  int64_t context, rows;
};

// One step over a paged cache with scattered blocks, on both sides. Keys and values of a sequence depend on `identity`
// and position alone, so that steps can be compared.
struct Step {
  Heads heads;
  Type type;
  int64_t rows = 0, padding, blocks = 0, max_blocks = 1;
  std::vector<int32_t> first_row{0}, context, table;
  std::vector<float> q, k, v, slopes, biases, sinks;
  DeviceMatrix d_q, d_k, d_v, d_out;
  DeviceVector<int32_t> d_first_row, d_context, d_table;
  DeviceVector<float> d_slopes, d_biases, d_sinks;
  int grid = 3;  // blocks that decode
  bool deterministic = false, decode_only = false;

  static int64_t count_rows(const std::vector<Part>& parts) {
    return std::accumulate(parts.begin(), parts.end(), int64_t{0}, [](int64_t n, const Part& p) { return n + p.rows; });
  }
  static int64_t count_blocks(const Heads& h, const std::vector<Part>& parts) {
    return std::accumulate(parts.begin(), parts.end(), int64_t{2},
                           [&](int64_t n, const Part& p) { return n + (p.context + h.block - 1) / h.block; });
  }
  Step(const Heads& h, Type type, const std::vector<Part>& parts, int64_t padding = 0, unsigned identity = 0)
      : heads(h),
        type(type),
        rows(count_rows(parts)),
        padding(padding),
        blocks(count_blocks(h, parts)),
        d_q(type, rows + padding, h.n_heads * h.dim, 8),
        d_k(type, blocks, h.n_kv_heads * h.block * h.dim, 16),
        d_v(type, blocks, h.n_kv_heads * h.block * h.dim, 16),
        d_out(type, rows + padding, h.n_heads * h.dim, 8),
        d_first_row(fill(parts, identity)),
        d_context(context),
        d_table(table),
        d_slopes(slopes),
        d_biases(biases),
        d_sinks(sinks) {
    d_q.fill(q);
    d_k.fill(k);
    d_v.fill(v);
    d_out.fill(std::vector<float>(q.size(), 3.0f));
  }
  const std::vector<int32_t>& fill(const std::vector<Part>& parts, unsigned identity) {
    for (const Part& p : parts) max_blocks = std::max(max_blocks, (p.context + heads.block - 1) / heads.block);
    std::vector<int32_t> free(static_cast<size_t>(blocks));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), std::mt19937(identity + 5));
    // Blocks of nobody hold NaN: what is read where nothing was written shows.
    k.assign(static_cast<size_t>(blocks * heads.n_kv_heads * heads.block * heads.dim), NAN);
    v = k;
    for (size_t s = 0; s < parts.size(); ++s) {
      std::mt19937 random(identity + static_cast<unsigned>(s));
      std::vector<int32_t> own;
      for (int64_t p = 0; p < parts[s].context; ++p) {
        if (p % heads.block == 0) {
          own.push_back(free.back());
          free.pop_back();
        }
        const auto kk = normal(random, heads.n_kv_heads * heads.dim, type),
                   vv = normal(random, heads.n_kv_heads * heads.dim, type),
                   qq = normal(random, heads.n_heads * heads.dim, type);
        for (int64_t h = 0; h < heads.n_kv_heads; ++h) {
          const int64_t at = ((own.back() * heads.n_kv_heads + h) * heads.block + p % heads.block) * heads.dim;
          std::copy_n(&kk[static_cast<size_t>(h * heads.dim)], heads.dim, &k[static_cast<size_t>(at)]);
          std::copy_n(&vv[static_cast<size_t>(h * heads.dim)], heads.dim, &v[static_cast<size_t>(at)]);
        }
        if (p >= parts[s].context - parts[s].rows) q.insert(q.end(), qq.begin(), qq.end());
      }
      for (int64_t r = parts[s].context; r < parts[s].rows; ++r) {  // more rows than keys
        const auto more = normal(random, heads.n_heads * heads.dim, type);
        q.insert(q.end(), more.begin(), more.end());
      }
      // Blocks wholly behind the window may be anybody's.
      const int64_t oldest = parts[s].context - parts[s].rows - heads.window + 1;
      for (int64_t b = 0; heads.window > 0 && (b + 1) * heads.block <= oldest; ++b)
        own[static_cast<size_t>(b)] = -1000000;
      own.resize(static_cast<size_t>(max_blocks), -1000000);
      table.insert(table.end(), own.begin(), own.end());
      first_row.push_back(first_row.back() + static_cast<int32_t>(parts[s].rows));
      context.push_back(static_cast<int32_t>(parts[s].context));
    }
    q.resize(static_cast<size_t>((rows + padding) * heads.n_heads * heads.dim), 1.0f);
    std::mt19937 bias_random(77);
    biases = normal(bias_random, heads.n_heads * (2 * heads.reach + 1));
    for (int64_t h = 0; h < heads.n_heads; ++h) {
      slopes.push_back(std::pow(0.5f, static_cast<float>(h % 8 + 1)));
      sinks.push_back(heads.sink.value_or(0) + 0.1f * static_cast<float>(h));
    }
    return first_row;
  }

  std::vector<float> expect() {
    const int64_t width = heads.n_heads * heads.dim;
    std::vector<float> out(q.size());
    std::vector<int32_t> safe = table;
    for (int32_t& b : safe) b = std::max(b, 0);
    BatchView batch;
    batch.rows = rows + padding;
    batch.seqs = static_cast<int64_t>(context.size());
    batch.first_row = host_ints(first_row);
    batch.context = host_ints(context);
    batch.cache[0].block_table = Tensor(safe.data(), DType::kI32, {batch.seqs, max_blocks});
    AttentionShape shape;
    shape.n_heads = heads.n_heads;
    shape.n_kv_heads = heads.n_kv_heads;
    shape.head_dim = heads.dim;
    shape.scale = 0.2f;
    shape.window = heads.window;
    shape.soft_cap = heads.cap;
    shape.alibi_rounded = heads.rounded;
    shape.causal = !heads.all_keys;
    if (heads.reach > 0) shape.distance_bias = host_tensor(biases, heads.n_heads, 2 * heads.reach + 1);
    if (heads.alibi) shape.alibi_slopes = Tensor(slopes.data(), DType::kF32, {heads.n_heads});
    if (heads.sink) shape.sinks = Tensor(sinks.data(), DType::kF32, {heads.n_heads});
    const std::initializer_list<int64_t> dims = {blocks, heads.n_kv_heads, heads.block, heads.dim};
    cpu().attention(host_tensor(out, rows + padding, width), host_tensor(q, rows + padding, width), batch, 0, shape,
                    {Tensor(k.data(), DType::kF32, dims), Tensor(v.data(), DType::kF32, dims)});
    return out;
  }

  AttentionParams params(DeviceBytes& workspace) {
    const auto seqs = static_cast<int64_t>(context.size());
    workspace.zero();
    AttentionParams a{};
    a.out = d_out.data();
    a.q = d_q.data();
    a.k_cache = d_k.data();
    a.v_cache = d_v.data();
    a.first_row = d_first_row.data();
    a.context = d_context.data();
    a.block_table = d_table.data();
    a.alibi_slopes = heads.alibi ? d_slopes.data() : nullptr;
    a.sinks = heads.sink ? d_sinks.data() : nullptr;
    a.slopes_rounded = heads.rounded;
    a.all_keys = heads.all_keys;
    if (heads.reach > 0) {
      a.distance_bias = d_biases.data();
      a.bias_stride = 2 * heads.reach + 1;
      a.reach = static_cast<int32_t>(heads.reach);
    }
    a.workspace = workspace.data();
    a.rows = rows + padding;
    a.seqs = seqs;
    a.out_stride = d_out.stride();
    a.q_stride = d_q.stride();
    a.block_stride = d_k.stride();
    a.block_table_stride = max_blocks;
    a.n_heads = static_cast<int32_t>(heads.n_heads);
    a.n_kv_heads = static_cast<int32_t>(heads.n_kv_heads);
    a.head_dim = static_cast<int32_t>(heads.dim);
    a.block_size = static_cast<int32_t>(heads.block);
    a.window = static_cast<int32_t>(heads.window);
    a.blocks = grid;
    a.scale = 0.2f;
    a.soft_cap = heads.cap;
    a.decode_only = decode_only;
    a.deterministic = deterministic;
    a.type = type;
    return a;
  }
  size_t workspace_bytes() const { return kernels::attention_workspace_bytes(grid, heads.dim); }

  std::vector<float> run() {
    DeviceBytes workspace(workspace_bytes());
    const AttentionParams a = params(workspace);
    for (int i = 0; i < 2; ++i) CUDA_OK(kernels::attention(a, nullptr));  // twice: the workspace is left as it was
    return d_out.read();
  }

  // A step of single rows that brings its own keys and values: what comes out, then both caches.
  std::vector<float> run_fresh(int64_t rotary, bool together) {
    DeviceBytes workspace(workspace_bytes());
    const AttentionParams a = params(workspace);
    const int64_t all = rows + padding, width = heads.n_kv_heads * heads.dim;
    std::mt19937 random(91);
    DeviceMatrix own_k(type, all, width, 8), own_v(type, all, width, 16);
    own_k.fill(normal(random, all * width, type));
    own_v.fill(normal(random, all * width, type));
    std::vector<float> old_k = k, old_v = v;
    std::vector<int32_t> positions(static_cast<size_t>(all), 0), slots(static_cast<size_t>(all), -1);
    for (size_t s = 0; s < context.size(); ++s) {
      if (first_row[s] == first_row[s + 1]) continue;
      const auto row = static_cast<size_t>(first_row[s]);
      const int64_t last = context[s] - 1,
                    block = table[s * static_cast<size_t>(max_blocks) + static_cast<size_t>(last / heads.block)];
      positions[row] = static_cast<int32_t>(last);
      slots[row] = static_cast<int32_t>(block * heads.block + last % heads.block);
      for (int64_t h = 0; h < heads.n_kv_heads; ++h) {
        const int64_t at = ((block * heads.n_kv_heads + h) * heads.block + last % heads.block) * heads.dim;
        std::fill_n(&old_k[static_cast<size_t>(at)], heads.dim, NAN);
        std::fill_n(&old_v[static_cast<size_t>(at)], heads.dim, NAN);
      }
    }
    d_k.fill(old_k);
    d_v.fill(old_v);
    d_q.fill(q);
    const DeviceVector<float> angles(normal(random, 400 * std::max<int64_t>(rotary, 2)));
    const DeviceVector<int32_t> d_positions(positions), d_slots(slots);
    kernels::RopeCacheParams r{};
    r.q = d_q.data();
    r.k = own_k.data();
    r.v = own_v.data();
    r.table = rotary > 0 ? angles.data() : nullptr;
    r.positions = d_positions.data();
    r.slots = d_slots.data();
    r.k_cache = a.k_cache;
    r.v_cache = a.v_cache;
    r.rows = all;
    r.q_stride = a.q_stride;
    r.k_stride = own_k.stride();
    r.v_stride = own_v.stride();
    r.table_stride = rotary;
    r.block_stride = a.block_stride;
    r.n_heads = a.n_heads;
    r.n_kv_heads = a.n_kv_heads;
    r.head_dim = a.head_dim;
    r.half = static_cast<int32_t>(rotary / 2);
    r.block_size = a.block_size;
    r.type = type;
    if (together) {
      CUDA_OK(kernels::rope_and_attention(r, a, nullptr));
    } else {
      CUDA_OK(kernels::rope_and_cache(r, nullptr));
      CUDA_OK(kernels::attention(a, nullptr));
    }
    std::vector<float> out = d_out.read();
    for (const DeviceMatrix* cache : {&d_k, &d_v}) {
      const std::vector<float> values = cache->read();
      for (const float x : values) out.push_back(std::isnan(x) ? -7.0f : x);
    }
    return out;
  }
};

}  // namespace sluice::test
