// SPDX-License-Identifier: Apache-2.0
#include "cache.h"

#include "cuda/device_arrays.h"

namespace sluice {
namespace {
using namespace test;

TEST_CASE("rope_and_cache rotates in place and writes the cache as the CPU backend does") {
  std::mt19937 random(6);
  for (const Type type : kTypes) {
    for (const int64_t rotary : {0, 8, 40}) {
      CAPTURE(name_of(type));
      CAPTURE(rotary);
      const int64_t rows = 5, nh = 6, nkv = 2, dim = 40, block = 4, blocks = 3;
      std::vector<float> q = normal(random, rows * nh * dim, type), k = normal(random, rows * nkv * dim, type),
                         v = normal(random, rows * nkv * dim, type),
                         table = normal(random, 10 * std::max<int64_t>(rotary, 2));
      std::vector<int32_t> positions{3, 4, 9, 0, 0}, slots{7, 8, 2, 0, -1};
      const int64_t qkv = (nh + 2 * nkv) * dim;
      std::vector<float> fused(static_cast<size_t>(rows * qkv));
      for (int64_t r = 0; r < rows; ++r) {
        std::copy_n(&q[static_cast<size_t>(r * nh * dim)], nh * dim, &fused[static_cast<size_t>(r * qkv)]);
        std::copy_n(&k[static_cast<size_t>(r * nkv * dim)], nkv * dim, &fused[static_cast<size_t>(r * qkv + nh * dim)]);
        std::copy_n(&v[static_cast<size_t>(r * nkv * dim)], nkv * dim,
                    &fused[static_cast<size_t>(r * qkv + (nh + nkv) * dim)]);
      }
      DeviceMatrix d_fused(type, rows, qkv, 8);
      DeviceMatrix kc(type, blocks, nkv * block * dim, 24), vc(type, blocks, nkv * block * dim, 24);
      d_fused.fill(fused);
      const std::vector<float> blank(static_cast<size_t>(blocks * nkv * block * dim), 0.25f);
      kc.fill(blank);
      vc.fill(blank);
      const DeviceVector<float> d_table(table);
      const DeviceVector<int32_t> d_positions(positions), d_slots(slots);

      std::vector<float> want_k = blank, want_v = blank;
      BatchView batch;
      batch.rows = rows;
      batch.positions = host_ints(positions);
      batch.cache[0].slots = host_ints(slots);
      const CacheLayer layer{Tensor(want_k.data(), DType::kF32, {blocks, nkv, block, dim}),
                             Tensor(want_v.data(), DType::kF32, {blocks, nkv, block, dim})};
      AttentionShape shape;
      shape.n_heads = nh;
      shape.n_kv_heads = nkv;
      shape.head_dim = dim;
      cpu().rope_and_cache(host_tensor(q, rows, nh * dim), host_tensor(k, rows, nkv * dim),
                           host_tensor(v, rows, nkv * dim), rotary > 0 ? host_tensor(table, 10, rotary) : Tensor(),
                           batch, 0, shape, layer);
      auto* base = static_cast<char*>(d_fused.data());
      const auto bytes = static_cast<int64_t>(kernels::type_bytes(type));
      kernels::RopeCacheParams p{};
      p.q = base;
      p.k = base + nh * dim * bytes;
      p.v = base + (nh + nkv) * dim * bytes;
      p.table = rotary > 0 ? d_table.data() : nullptr;
      p.positions = d_positions.data();
      p.slots = d_slots.data();
      p.k_cache = kc.data();
      p.v_cache = vc.data();
      p.rows = rows;
      p.q_stride = p.k_stride = p.v_stride = d_fused.stride();
      p.table_stride = rotary;
      p.block_stride = kc.stride();
      p.n_heads = nh;
      p.n_kv_heads = nkv;
      p.head_dim = dim;
      p.half = static_cast<int32_t>(rotary / 2);
      p.block_size = block;
      p.type = type;
      CUDA_OK(kernels::rope_and_cache(p, nullptr));
      const std::vector<float> got = d_fused.read();
      std::vector<float> want = fused;
      for (int64_t r = 0; r < rows; ++r) {
        std::copy_n(&q[static_cast<size_t>(r * nh * dim)], nh * dim, &want[static_cast<size_t>(r * qkv)]);
        std::copy_n(&k[static_cast<size_t>(r * nkv * dim)], nkv * dim, &want[static_cast<size_t>(r * qkv + nh * dim)]);
      }
      CHECK(worst(got, want, half_ulp(type) + 1e-6f, 1e-6f) < 1);
      CHECK(worst(kc.read(), want_k, half_ulp(type) + 1e-6f, 1e-6f) < 1);
      CHECK(vc.read() == want_v);
    }
  }
}

TEST_CASE("copy_blocks copies in order, so that a copy may be copied on") {
  std::mt19937 random(7);
  for (const int64_t width : {64, 37}) {
    const std::vector<float> start = normal(random, 6 * width, Type::kBF16);
    std::vector<float> want = start;
    std::vector<int32_t> pairs{0, 3, 3, 5, 1, 3, 2, 2};
    const Tensor host = host_tensor(want, 6, width);
    cpu().copy_blocks(host, Tensor(pairs.data(), DType::kI32, {4, 2}));
    in_several_orders([&] {
      DeviceMatrix cache(Type::kBF16, 6, width, 8);
      cache.fill(start);
      const DeviceVector<int32_t> d_pairs(pairs);
      CUDA_OK(kernels::copy_blocks({cache.data(), d_pairs.data(), 4, width * 2, cache.stride() * 2}, nullptr));
      CHECK(cache.read() == want);
    });
  }
}

}  // namespace
}  // namespace sluice
