// SPDX-License-Identifier: Apache-2.0
#include "rows.h"
#include "cache.h"

#include "bench.h"

namespace sluice::bench {

void bench_rows(Bench& bench) {
  const int64_t width = kLarge.width, mlp = kLarge.mlp;
  for (const int64_t rows : {1, 64, 256, 600, 2048}) {
    const std::string of = " 8b, " + std::to_string(rows) + " rows";
    const auto n = static_cast<size_t>(rows);
    bench.measure("rms_norm" + of, [&] {
      const double bytes = 4.0 * static_cast<double>(rows * width);
      const int copies = copies_for(bytes);
      const Shared x = memory(n * static_cast<size_t>(width * copies) * 2, kBF16),
                   out = memory(n * static_cast<size_t>(width * copies) * 2, kZero),
                   weight = memory(static_cast<size_t>(width) * 4, kF32);
      return Case{"", bytes, 0, copies, [=](int copy, cudaStream_t s) {
                    NormParams p{};
                    p.x = x->at<uint16_t>(static_cast<size_t>(copy * rows * width));
                    p.out = out->at<uint16_t>(static_cast<size_t>(copy * rows * width));
                    p.weight = weight->at<float>();
                    p.rows = rows;
                    p.width = p.out_stride = p.x_stride = width;
                    p.eps = 1e-5f;
                    p.type = Type::kBF16;
                    return rms_norm(p, s);
                  }};
    });
    bench.measure("normed_gated_activation" + of, [&] {
      const double bytes = 6.0 * static_cast<double>(rows * mlp) + 2.0 * static_cast<double>(rows * width);
      const int copies = copies_for(bytes);
      const Shared in = memory(n * static_cast<size_t>(2 * mlp * copies) * 2, kBF16),
                   x = memory(n * static_cast<size_t>(width) * 2, kBF16),
                   out = memory(n * static_cast<size_t>(mlp * copies) * 2, kZero);
      return Case{"", bytes, 0, copies, [=](int copy, cudaStream_t s) {
                    NormedGatedParams p{};
                    p.in = in->at<uint16_t>(static_cast<size_t>(copy * rows * 2 * mlp));
                    p.out = out->at<uint16_t>(static_cast<size_t>(copy * rows * mlp));
                    p.x = x->at();
                    p.rows = rows;
                    p.width = p.out_stride = mlp;
                    p.in_stride = 2 * mlp;
                    p.x_width = p.x_stride = width;
                    p.eps = 1e-5f;
                    p.factor = 1;
                    p.function = Function::kSilu;
                    p.type = Type::kBF16;
                    return normed_gated_activation(p, s);
                  }};
    });
    bench.measure("rope_and_cache" + of, [&] {
      const int64_t q = kLarge.heads * kLarge.dim, kv = kLarge.kv_heads * kLarge.dim, all = q + 2 * kv;
      const double bytes = 2.0 * static_cast<double>(rows * (2 * q + 5 * kv));
      const int copies = copies_for(bytes);
      const Shared x = memory(n * static_cast<size_t>(all * copies) * 2, kBF16),
                   table = memory(n * static_cast<size_t>(kLarge.dim) * 4, kF32),
                   cache = memory((n + 16) * static_cast<size_t>(2 * kv) * 2, kZero), order = memory(n * 4, kZero);
      std::vector<int32_t> places;
      for (int32_t i = 0; i < static_cast<int32_t>(rows); ++i) places.push_back(i);
      order->write(places);
      return Case{"", bytes, 0, copies, [=](int copy, cudaStream_t s) {
                    RopeCacheParams p{};
                    p.q = x->at<uint16_t>(static_cast<size_t>(copy * rows * all));
                    p.k = static_cast<uint16_t*>(p.q) + q;
                    p.v = static_cast<uint16_t*>(p.q) + q + kv;
                    p.table = table->at<float>();
                    p.positions = p.slots = order->at<int32_t>();
                    p.k_cache = cache->at();
                    p.v_cache = cache->at<uint16_t>((n + 16) * static_cast<size_t>(kv));
                    p.rows = rows;
                    p.q_stride = p.k_stride = p.v_stride = all;
                    p.table_stride = kLarge.dim;
                    p.block_stride = kv * 16;
                    p.n_heads = static_cast<int32_t>(kLarge.heads);
                    p.n_kv_heads = static_cast<int32_t>(kLarge.kv_heads);
                    p.head_dim = static_cast<int32_t>(kLarge.dim);
                    p.half = p.head_dim / 2;
                    p.block_size = 16;
                    p.type = Type::kBF16;
                    return rope_and_cache(p, s);
                  }};
    });
  }
}

}  // namespace sluice::bench
