// SPDX-License-Identifier: Apache-2.0
// Ops of the CUDA backend against the CPU's: the same shapes, strides and epilogues, activations in the weights' type.
#include <functional>

#include "cuda/backend/twin.h"

namespace sluice {
namespace {
using test::Side;

constexpr int64_t kGap = 8;

std::unique_ptr<Weight> pack(Side& side, const std::vector<float>& values, int64_t rows, int64_t cols, DType dtype) {
  return side->pack({values.data(), DType::kF32, rows, cols, cols}, test::scheme_of(dtype));
}

TEST_CASE("linear equals the CPU's for few rows and many, with every epilogue") {
  std::mt19937 random(1);
  for (const DType dtype : test::kTypes) {
    Side gpu(test::make_cuda(), dtype), cpu = test::cpu_side();
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{40, 64}, {24, 36}}) {
      const auto w = test::normal(random, n * k, dtype, 0.2f), bias = test::normal(random, n);
      const auto gpu_w = pack(gpu, w, n, k, dtype), cpu_w = pack(cpu, w, n, k, dtype);
      for (const int64_t rows : {1, 5, 16, 17, 33}) {
        for (const int extras : {0, 1, 2, 3}) {
          CAPTURE(dtype_name(dtype));
          CAPTURE(rows);
          CAPTURE(extras);
          const auto x = test::normal(random, rows * k, dtype), r = test::normal(random, rows * n, dtype);
          const auto run = [&](Side& side, const Weight& weight) {
            const Tensor out = side.empty(rows, n, kGap);
            Epilogue epilogue;
            if (extras & 1) epilogue.bias = side.floats(bias);
            if (extras & 2) epilogue.residual = side.matrix(r, rows, n, kGap);
            side->linear(out, side.matrix(x, rows, k, kGap), weight, epilogue);
            return side.read(out);
          };
          // Bias and residual may be added to a sum that is rounded already.
          test::check_near(run(gpu, *gpu_w), run(cpu, *cpu_w), dtype, dtype == DType::kF32 ? 64 : 4, 4.0);
        }
      }
    }
  }
}

TEST_CASE("linear adds to its own output, and gives f32 for f16 where f32 is asked for") {
  std::mt19937 random(2);
  const int64_t n = 32, k = 48;
  for (const int64_t rows : {3, 20}) {
    Side gpu(test::make_cuda(), DType::kBF16), cpu = test::cpu_side();
    const auto w = test::normal(random, n * k, DType::kBF16, 0.2f), x = test::normal(random, rows * k, DType::kBF16);
    const auto r = test::normal(random, rows * n, DType::kBF16), bias = test::normal(random, n);
    const auto gpu_w = pack(gpu, w, n, k, DType::kBF16), cpu_w = pack(cpu, w, n, k, DType::kBF16);
    for (const bool with_bias : {false, true}) {
      const auto run = [&](Side& side, const Weight& weight) {
        const Tensor inout = side.matrix(r, rows, n);
        side->linear(inout, side.matrix(x, rows, k), weight, {with_bias ? side.floats(bias) : Tensor(), inout});
        return side.read(inout);
      };
      test::check_near(run(gpu, *gpu_w), run(cpu, *cpu_w), DType::kBF16, 4, 4.0);
    }
    const auto logits = [&](Side& side, const Weight& weight) {
      const Tensor out = side.put({}, rows, n, 0, DType::kF32);
      side->linear(out, side.matrix(x, rows, k), weight, {});
      return side.read(out);
    };
    test::check_near(logits(gpu, *gpu_w), logits(cpu, *cpu_w), DType::kF32, 64, 4.0);
  }
}

TEST_CASE("fused_linear equals norm, product and gate one after the other") {
  std::mt19937 random(3);
  const int64_t k = 64, f = 24;
  const Activation silu = Activation::kSilu;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {1, 4, 12, 20}) {
      for (const int what : {1, 2, 3}) {  // norm, gate, both
        CAPTURE(rows);
        CAPTURE(what);
        const bool gated = (what & 2) != 0;
        const int64_t n = gated ? 2 * f : f;
        const auto x = test::normal(random, rows * k, dtype), w = test::normal(random, n * k, dtype, 0.2f);
        const auto norm = test::normal(random, k);
        const auto run = [&](Side& side, bool fused) {
          const auto weight = pack(side, w, n, k, dtype);
          const Tensor in = side.matrix(x, rows, k), h = side.empty(rows, k), product = side.empty(rows, n),
                       out = side.empty(rows, f), norm_weight = (what & 1) != 0 ? side.floats(norm) : Tensor();
          if (fused) {
            side->fused_linear(out, in, norm_weight, 1e-5f, *weight, {}, gated ? &silu : nullptr, h, product);
          } else {
            side->Backend::fused_linear(out, in, norm_weight, 1e-5f, *weight, {}, gated ? &silu : nullptr, h, product);
          }
          return side.read(out);
        };
        Side gpu(test::make_cuda(), dtype), cpu = test::cpu_side();
        test::check_near(run(gpu, true), run(gpu, false), dtype, dtype == DType::kF32 ? 64 : 8, 4.0);
        test::check_near(run(gpu, true), run(cpu, true), dtype, dtype == DType::kF32 ? 128 : 24, 4.0);
      }
    }
  }
}

TEST_CASE("a row of a deterministic product does not depend on the others") {
  std::mt19937 random(4);
  const int64_t n = 24, k = 64;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Side gpu(test::make_cuda(true), dtype);
    const auto w = test::normal(random, n * k, dtype), x = test::normal(random, 70 * k, dtype);
    const auto weight = pack(gpu, w, n, k, dtype);
    const auto run = [&](int64_t first, int64_t rows) {
      const Tensor out = gpu.empty(rows, n),
                   in = gpu.matrix({x.begin() + first * k, x.begin() + (first + rows) * k}, rows, k);
      gpu->linear(out, in, *weight, {});
      return gpu.read(out);
    };
    const auto whole = run(0, 70);
    for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{0, 1}, {69, 1}, {10, 7}, {3, 40}}) {
      const auto part = run(first, rows);
      CHECK(std::equal(part.begin(), part.end(), whole.begin() + first * n));
    }
  }
}

// One op over a residual stream on both sides.
void compare(DType dtype, double units, const std::function<std::vector<float>(Side&)>& op) {
  CAPTURE(dtype_name(dtype));
  Side gpu(test::make_cuda(), dtype), cpu = test::cpu_side();
  test::check_near(op(gpu), op(cpu), dtype, units, 1.0);
}

TEST_CASE("ops on rows equal the CPU's") {
  for (const DType dtype : test::kTypes) {
    std::mt19937 random(5);
    const int64_t rows = 7, width = 72;
    const auto x = test::normal(random, rows * width, dtype), r = test::normal(random, rows * width, dtype);
    const auto both = test::normal(random, rows * 2 * width, dtype);
    const auto weight = test::normal(random, width), bias = test::normal(random, width);
    for (const bool residual : {false, true}) {
      compare(dtype, 16, [&](Side& side) {
        const Tensor out = side.empty(rows, width, kGap), sum = side.matrix(r, rows, width, kGap);
        side->rms_norm(out, side.matrix(x, rows, width), residual ? sum : Tensor(), side.floats(weight), 1e-5f);
        auto all = side.read(out);
        const auto after = side.read(sum);
        all.insert(all.end(), after.begin(), after.end());
        return all;
      });
      compare(dtype, 32, [&](Side& side) {
        const Tensor out = side.empty(rows, width, kGap), sum = side.matrix(r, rows, width, kGap);
        side->layer_norm(out, side.matrix(x, rows, width), residual ? sum : Tensor(), side.floats(weight),
                         residual ? side.floats(bias) : Tensor(), 1e-5f);
        return side.read(out);
      });
    }
    for (const Activation a : {Activation::kSilu, Activation::kGeluErf, Activation::kGeluTanh, Activation::kRelu}) {
      compare(dtype, 32, [&](Side& side) {
        const Tensor out = side.empty(rows, width, kGap);
        side->gated_activation(out, side.matrix(both, rows, 2 * width, kGap), a);
        return side.read(out);
      });
      compare(dtype, 32, [&](Side& side) {
        const Tensor inout = side.matrix(x, rows, width, kGap);
        side->activation(inout, a);
        return side.read(inout);
      });
    }
    compare(dtype, 2, [&](Side& side) {
      const Tensor inout = side.matrix(x, rows, width, kGap);
      side->add(inout, side.matrix(r, rows, width));
      return side.read(inout);
    });
    compare(dtype, 2, [&](Side& side) {
      const Tensor inout = side.matrix(x, rows, width, kGap);
      side->add_bias(inout, side.floats(bias));
      return side.read(inout);
    });
    compare(dtype, 1, [&](Side& side) {
      const Tensor out = side.empty(4, width, kGap);
      side->gather_rows(out, side.matrix(x, rows, width, kGap), side.ints({6, 0, 0, 3}));
      return side.read(out);
    });
    compare(dtype, 1, [&](Side& side) {
      const Tensor out = side.empty(5, width, kGap), table = side.put(r, rows, width, 0, dtype);
      side->embed(out, table, side.ints({12, 10, 9, 16, 17}), 10);
      return side.read(out);
    });
    compare(dtype, 1, [&](Side& side) {
      const Tensor cache = side.matrix(x, rows, width);
      side->copy_blocks(cache, side.ints({0, 2, 2, 3, 1, 1}).reshaped({3, 2}));
      return side.read(cache);
    });
  }
}

TEST_CASE("rope and attention over the paged cache equal the CPU's, prefill and decode together") {
  std::mt19937 random(6);
  struct Case {
    DType dtype;
    int64_t heads, kv_heads, dim, window;
    bool alibi, deterministic, sinks = false;
  };
  for (const Case& c :
       {Case{DType::kF32, 8, 4, 32, 0, false, false}, Case{DType::kF32, 4, 2, 64, 9, true, false},
        Case{DType::kBF16, 8, 2, 64, 0, false, false}, Case{DType::kBF16, 4, 4, 32, 0, false, true},
        Case{DType::kF32, 8, 4, 32, 9, false, false, true}, Case{DType::kBF16, 8, 2, 64, 20, false, false, true},
        Case{DType::kBF16, 8, 2, 64, 0, false, true, true}}) {
    const int64_t block = 16, blocks = 12, half = c.dim / 2;
    const std::vector<int64_t> begin{0, 37, 20}, rows{21, 1, 3};  // a prompt, a decode, a chunk of a prompt
    std::vector<float> table;
    for (int64_t p = 0; p < 64; ++p) {
      for (int part = 0; part < 2; ++part) {
        for (int64_t i = 0; i < half; ++i) {
          const float angle = static_cast<float>(p) * std::pow(10.0f, -static_cast<float>(i) * 0.2f);
          table.push_back(part == 0 ? std::cos(angle) : std::sin(angle));
        }
      }
    }
    std::vector<float> slopes, sinks;
    for (int64_t h = 0; h < c.heads; ++h) {
      slopes.push_back(std::pow(0.5f, static_cast<float>(h + 1)));
      sinks.push_back(0.5f * static_cast<float>(h));
    }
    const std::vector<int32_t> block_table{3, 7, 0, 0, 1, 9, 4, 0, 2, 11, 0, 0};  // [3, 4]
    const int64_t width = (c.heads + 2 * c.kv_heads) * c.dim;
    // Two steps: the caches fill first, then the rows that count come.
    std::vector<std::vector<float>> values;
    for (const int64_t n : {37 + 20, 21 + 1 + 3}) values.push_back(test::normal(random, n * width, c.dtype));
    const auto run = [&](Side& side) {
      const size_t bytes = static_cast<size_t>(blocks * c.kv_heads * block * c.dim) * dtype_bytes(c.dtype);
      const Buffer k = side->allocate(bytes), v = side->allocate(bytes);
      const CacheLayer cache{k.view(c.dtype, {blocks, c.kv_heads, block, c.dim}),
                             v.view(c.dtype, {blocks, c.kv_heads, block, c.dim})};
      AttentionShape shape;
      shape.n_heads = c.heads, shape.n_kv_heads = c.kv_heads, shape.head_dim = c.dim;
      shape.scale = 0.2f, shape.window = c.window;
      if (c.alibi) shape.alibi_slopes = side.floats(slopes);
      if (c.sinks) shape.sinks = side.floats(sinks);
      std::vector<float> last;
      for (const bool fills : {true, false}) {
        std::vector<int32_t> positions, slots, first_row{0}, context;
        for (size_t s = 0; s < rows.size(); ++s) {
          const int64_t from = fills ? 0 : begin[s], n = fills ? begin[s] : rows[s];
          for (int64_t p = from; p < from + n; ++p) {
            positions.push_back(static_cast<int32_t>(p));
            slots.push_back(block_table[s * 4 + static_cast<size_t>(p / block)] * static_cast<int32_t>(block) +
                            static_cast<int32_t>(p % block));
          }
          first_row.push_back(static_cast<int32_t>(positions.size()));
          context.push_back(static_cast<int32_t>(from + n));
        }
        BatchView batch;
        batch.rows = static_cast<int64_t>(positions.size());
        batch.seqs = static_cast<int64_t>(rows.size());
        batch.positions = side.ints(positions);
        batch.first_row = side.ints(first_row);
        batch.context = side.ints(context);
        batch.cache[0].slots = side.ints(slots);
        batch.cache[0].block_table = side.ints(block_table).reshaped({3, 4});
        const Tensor qkv = side.matrix(values[fills ? 0 : 1], batch.rows, width);
        const int64_t q = c.heads * c.dim, kv = c.kv_heads * c.dim;
        const Tensor out = side.empty(batch.rows, q, kGap);
        side->rope_and_cache(qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv),
                             side.put(table, 64, c.dim, 0, DType::kF32), batch, 0, shape, cache);
        side->attention(out, qkv.columns(0, q), batch, 0, shape, cache);
        last = side.read(out);
      }
      return last;
    };
    CAPTURE(dtype_name(c.dtype));
    CAPTURE(c.dim);
    Side gpu(test::make_cuda(c.deterministic), c.dtype), cpu = test::cpu_side();
    if (c.dtype == DType::kF32) {
      test::check_near(run(gpu), run(cpu), DType::kF32, 256, 1.0);
    } else {
      test::check_near(run(gpu), run(cpu), c.dtype, 6, 1.0);
    }
  }
}

}  // namespace
}  // namespace sluice
