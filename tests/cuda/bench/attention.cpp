// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include "bench.h"

namespace sluice::bench {

namespace {

// Sequences of `rows` new tokens each at the end of contexts[i] keys.
Case attention_case(const Shape& shape, const std::vector<int32_t>& contexts, int64_t rows) {
  constexpr int64_t kBlock = 16;
  const auto seqs = static_cast<int64_t>(contexts.size());
  const int64_t longest = *std::max_element(contexts.begin(), contexts.end()), n = seqs * rows;
  const int64_t table = (std::max<int64_t>(longest, 4096) + kBlock - 1) / kBlock;
  const int64_t block = shape.kv_heads * kBlock * shape.dim, q_width = shape.heads * shape.dim,
                kv_width = shape.kv_heads * shape.dim, width = q_width + 2 * kv_width;
  double keys = 0, scores = 0;
  int64_t blocks = 0;
  std::vector<int32_t> tables(static_cast<size_t>(seqs * table)), first(static_cast<size_t>(seqs + 1)), positions,
      slots;
  for (int64_t i = 0; i < seqs; ++i) {
    const int32_t context = contexts[static_cast<size_t>(i)];
    for (int64_t b = 0; b < (context + kBlock - 1) / kBlock; ++b)
      tables[static_cast<size_t>(i * table + b)] = static_cast<int32_t>(blocks++);
    first[static_cast<size_t>(i + 1)] = static_cast<int32_t>((i + 1) * rows);
    keys += context;
    for (int64_t r = 0; r < rows; ++r) {
      const auto position = static_cast<int32_t>(context - rows + r);
      positions.push_back(position);
      slots.push_back(tables[static_cast<size_t>(i * table + position / kBlock)] * static_cast<int32_t>(kBlock) +
                      position % static_cast<int32_t>(kBlock));
      scores += position + 1;
    }
  }
  const double bytes = 4.0 * keys * static_cast<double>(kv_width);
  const int copies = copies_for(bytes);
  const auto cache = static_cast<size_t>(blocks * block);
  const Shared k = memory(cache * static_cast<size_t>(copies) * 2, kBF16),
               v = memory(cache * static_cast<size_t>(copies) * 2, kBF16);
  const Shared qkv = memory(static_cast<size_t>(n * width) * 2, kBF16),
               out = memory(static_cast<size_t>(n * q_width) * 2, kZero);
  const Shared lists[] = {memory(tables.size() * 4, kZero), memory(first.size() * 4, kZero),
                          memory(contexts.size() * 4, kZero), memory(positions.size() * 4, kZero),
                          memory(slots.size() * 4, kZero)};
  lists[0]->write(tables);
  lists[1]->write(first);
  lists[2]->write(contexts);
  lists[3]->write(positions);
  lists[4]->write(slots);
  const Shared angles = memory(static_cast<size_t>(longest * shape.dim) * 4, kF32);
  RopeCacheParams r{};
  r.q = qkv->at();
  r.k = qkv->at<uint16_t>(static_cast<size_t>(q_width));
  r.v = qkv->at<uint16_t>(static_cast<size_t>(q_width + kv_width));
  r.table = angles->at<float>();
  r.positions = lists[3]->at<int32_t>();
  r.slots = lists[4]->at<int32_t>();
  r.rows = n;
  r.q_stride = r.k_stride = r.v_stride = width;
  r.table_stride = shape.dim;
  r.block_stride = block;
  r.n_heads = static_cast<int32_t>(shape.heads);
  r.n_kv_heads = static_cast<int32_t>(shape.kv_heads);
  r.head_dim = static_cast<int32_t>(shape.dim);
  r.half = r.head_dim / 2;
  r.block_size = kBlock;
  r.type = Type::kBF16;
  AttentionParams a{};
  a.out = out->at();
  a.q = qkv->at();
  a.first_row = lists[1]->at<int32_t>();
  a.context = lists[2]->at<int32_t>();
  a.block_table = lists[0]->at<int32_t>();
  a.rows = n;
  a.seqs = seqs;
  a.out_stride = q_width;
  a.q_stride = width;
  a.block_stride = block;
  a.block_table_stride = table;
  a.n_heads = r.n_heads;
  a.n_kv_heads = r.n_kv_heads;
  a.head_dim = r.head_dim;
  a.block_size = kBlock;
  a.scale = 0.1f;
  a.decode_only = rows == 1;
  a.type = Type::kBF16;
  int device = 0, processors = 0;
  ok(cudaGetDevice(&device));
  ok(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  a.blocks = attention_blocks(processors, shape.dim);
  const Shared work = memory(attention_workspace_bytes(a.blocks, shape.dim), kZero);
  a.workspace = work->at();
  std::vector<Shared> held(std::begin(lists), std::end(lists));
  held.insert(held.end(), {qkv, angles, work, out});
  return {"", bytes, 4.0 * scores * static_cast<double>(q_width), copies, [=](int copy, cudaStream_t s) {
            RopeCacheParams rope = r;
            AttentionParams now = a;
            now.k_cache = rope.k_cache = k->at<uint16_t>(static_cast<size_t>(copy) * cache);
            now.v_cache = rope.v_cache = v->at<uint16_t>(static_cast<size_t>(copy) * cache);
            static_cast<void>(held);
            return rows == 1 ? rope_and_attention(rope, now, s) : attention(now, s);
          }};
}

}  // namespace

void bench_attention(Bench& bench) {
  for (const Shape& shape : {kLarge, kSmall}) {
    const std::string of = std::string(" ") + shape.name + ", ";
    for (const auto& [seqs, context] :
         std::vector<std::pair<int64_t, int32_t>>{{1, 600}, {1, 8000}, {8, 600}, {16, 4000}, {64, 600}, {256, 600}}) {
      bench.measure("attention decode" + of + std::to_string(seqs) + " x " + std::to_string(context),
                    [&] { return attention_case(shape, std::vector<int32_t>(static_cast<size_t>(seqs), context), 1); });
    }
    bench.measure("attention decode" + of + "8000 and 63 x 100", [&] {
      std::vector<int32_t> contexts(64, 100);
      contexts[20] = 8000;
      return attention_case(shape, contexts, 1);
    });
    for (const auto& [seqs, rows, context] : std::vector<std::tuple<int64_t, int64_t, int32_t>>{
             {1, 128, 128}, {1, 600, 600}, {1, 2048, 2048}, {1, 8192, 8192}, {8, 512, 512}, {1, 512, 8192}}) {
      bench.measure("attention prefill" + of + std::to_string(seqs) + " x " + std::to_string(rows) + " of " +
                        std::to_string(context),
                    [&, seqs = seqs, rows = rows, context = context] {
                      return attention_case(shape, std::vector<int32_t>(static_cast<size_t>(seqs), context), rows);
                    });
    }
  }
}

}  // namespace sluice::bench
