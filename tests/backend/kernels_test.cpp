// SPDX-License-Identifier: Apache-2.0
// Every kernel that this machine can run, not only the one it would choose, against plain loops and among themselves.
#include <hwy/targets.h>

#include "backend/arrays.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/panel_weight.h"
#include "base/log.h"

namespace sluice {
namespace {
using test::Matrix;

// What a machine of each kind would be told to use, as far as this one can play it.
std::vector<CpuIsa> machines() {
  const CpuIsa best = detect_isa("auto");
  std::vector<CpuIsa> all;
  for (int64_t targets = best.vector_targets & HWY_TARGETS; targets != 0; targets &= targets - 1) {
    CpuIsa isa;
    isa.vector_targets = targets;
    isa.name = hwy::TargetName(targets & -targets);
    all.push_back(isa);
  }
  if (best.vnni) {
    CpuIsa isa;
    isa.vector_targets = best.vector_targets;
    isa.vnni = true;
    isa.name = "AVX512-VNNI";
    all.push_back(isa);
  } else {
    log_warning("skipped: this machine has no dot products of bytes");
  }
  if (best.amx_bf16 || best.bf16_pairs) {  // each implies that pairs exist, fast or not
    CpuIsa isa = best;
    isa.amx_bf16 = false;
    isa.bf16_pairs = true;
    isa.name = "AVX512-BF16";
    all.push_back(isa);
  } else {
    log_warning("skipped: this machine has no bf16 dot products");
  }
  if (best.amx_bf16)
    all.push_back(best);
  else
    log_warning("skipped: this machine has no AMX");
  return all;
}

TEST_CASE("every kernel's product is right, and rows do not depend on each other") {
  std::mt19937 random(21);
  Pool pool(2, true);
  for (const CpuIsa& isa : machines()) {
    CAPTURE(isa.name);
    Products products(isa, pool, row_ops(isa.vector_targets));
    for (const Scheme scheme : {Scheme::kF32, Scheme::kBF16, Scheme::kF16}) {
      const DType dtype = scheme == Scheme::kF32 ? DType::kF32 : scheme == Scheme::kBF16 ? DType::kBF16 : DType::kF16;
      for (const auto& [width, depth] : {std::pair<int64_t, int64_t>{70, 45}, {64, 1300}}) {
        Matrix x(140, depth, 1), w(width, depth), all(140, width, 3);
        x.fill(random, 1.0f, dtype);
        w.fill(random, 0.1f, dtype);
        const auto packed = products.pack({w.tensor().data, DType::kF32, width, depth, depth}, scheme);
        const auto& weight = static_cast<const PanelWeight&>(*packed);
        products.run(all.tensor(), x.tensor(), weight, {});
        bool close = true;
        for (int64_t r = 0; r < 140; ++r) {
          for (int64_t n = 0; n < width; ++n) {
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < depth; ++k) {
              const double term = static_cast<double>(x.at(r, k)) * static_cast<double>(w.at(n, k));
              sum += term;
              magnitude += std::abs(term);
            }
            // As in linear_test: each of `depth` additions errs by at most 2^-24 of the magnitude.
            const double error = std::abs(static_cast<double>(all.at(r, n)) - sum);
            close = close && error <= magnitude * static_cast<double>(depth + 2) * 0x1p-24;
          }
        }
        CHECK(close);
        bool same = true;
        for (int64_t rows = 1; rows <= 70; ++rows) {
          Matrix some(rows, width);
          products.run(some.tensor(), x.tensor().rows(3, rows), weight, {});
          for (int64_t r = 0; r < rows; ++r) same = same && some.row_equals(r, all, 3 + r);
        }
        CHECK(same);
      }
    }
  }
}

// Without fused multiply-add sums of groups are rounded twice.
TEST_CASE("with and without FMA, every kernel's product of quantised weights has the same bits, large sums too") {
  std::mt19937 random(22);
  Pool pool(2, true);
  constexpr int64_t kWidth = 70, kDepth = 768;
  std::vector<uint8_t> numbers(static_cast<size_t>(kWidth * kDepth));
  std::vector<float> scale(static_cast<size_t>(kWidth * 3)), zero(scale.size());
  // Rows of one value are rounded to 127 everywhere, so that a group's sum is as large as it gets.
  Matrix x(40, kDepth);
  x.fill(random);
  for (int64_t k = 0; k < kDepth; ++k) x.at(0, k) = 2.5f, x.at(1, k) = -2.5f, x.at(13, k) = k % 2 == 0 ? 1.0f : -1.0f;
  for (const Scheme scheme : {Scheme::kInt8, Scheme::kInt4}) {
    const bool wide = scheme == Scheme::kInt8;
    const unsigned levels = wide ? 256 : 16;
    for (const int64_t group : wide ? std::vector<int64_t>{kDepth} : std::vector<int64_t>{32, 64, 256}) {
      const auto groups = static_cast<size_t>(kDepth / group);
      scale.resize(kWidth * groups);
      zero.resize(scale.size());
      for (auto& q : numbers) q = static_cast<uint8_t>(random() % levels);
      for (int64_t k = 0; k < kDepth; ++k) {  // columns of the largest and the smallest number
        numbers[static_cast<size_t>(k)] = static_cast<uint8_t>(levels - 1);
        numbers[static_cast<size_t>(kDepth + k)] = 0;
      }
      for (size_t i = 0; i < scale.size(); ++i) {
        scale[i] = 0.03125f * static_cast<float>(1 + i % 3);
        zero[i] = wide ? 128.0f : static_cast<float>(i % 2 == 0 ? 15 : i % 16);
      }
      const HostGroups given{group, scale.data(), zero.data()};
      std::vector<Matrix> firsts(2, Matrix(40, kWidth));
      bool begun[2] = {};
      for (const CpuIsa& isa : machines()) {
        const bool fused = (isa.vector_targets & -isa.vector_targets) <= HWY_AVX2;  // lower bits are better targets
        Matrix& first = firsts[fused];
        CAPTURE(isa.name);
        CAPTURE(group);
        Products products(isa, pool, row_ops(isa.vector_targets));
        CAPTURE(products.kernel(scheme).name);
        const auto packed = products.pack({numbers.data(), DType::kU8, kWidth, kDepth, kDepth, &given}, scheme);
        for (const int64_t rows : {40, 1, 2, 3, 4, 6, 8, 10, 12}) {
          Matrix out(rows, kWidth);
          products.run(out.tensor(), x.tensor().rows(0, rows), static_cast<const PanelWeight&>(*packed), {});
          if (!begun[fused]) {
            for (int64_t r = 0; r < rows; ++r)
              for (int64_t c = 0; c < kWidth; ++c) first.at(r, c) = out.at(r, c);
            begun[fused] = true;
          }
          bool same = true;
          for (int64_t r = 0; r < rows; ++r) same = same && out.row_equals(r, first, r);
          CHECK(same);
        }
      }
      // (levels - 1 - zero) * scale * 127 * (2.5 / 127) over all of the row.
      double expected = 0;
      for (size_t g = 0; g < groups; ++g)
        expected += static_cast<double>((static_cast<float>(levels - 1) - zero[g]) * scale[g]) * 2.5 *
                    static_cast<double>(group);
      for (size_t i = 0; i < firsts.size(); ++i) {
        if (!begun[i]) continue;
        CHECK(static_cast<double>(firsts[i].at(0, 0)) == doctest::Approx(expected).epsilon(1e-5));
        CHECK(static_cast<double>(firsts[i].at(1, 0)) == doctest::Approx(-expected).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("the attention kernels agree over a bf16 cache") {
  const CpuIsa best = detect_isa("auto");
  if (!best.amx_bf16) {
    log_warning("skipped: this machine has no AMX");
    return;
  }
  std::mt19937 random(22);
  constexpr int64_t kRows = 90, kHeads = 6, kKvHeads = 2, kDim = 40, kBlock = 16;
  Matrix q(kRows, kHeads * kDim), one(kRows, kHeads * kDim), other(kRows, kHeads * kDim);
  q.fill(random, 1.0f, DType::kBF16);
  std::vector<uint16_t> k(6 * kKvHeads * kBlock * kDim), v(k.size());
  std::normal_distribution<float> normal;
  for (uint16_t& e : k) e = f32_to_bf16(normal(random));
  for (uint16_t& e : v) e = f32_to_bf16(normal(random));
  const CacheLayer cache{Tensor(k.data(), DType::kBF16, {6, kKvHeads, kBlock, kDim}),
                         Tensor(v.data(), DType::kBF16, {6, kKvHeads, kBlock, kDim})};
  std::vector<int32_t> first_row{0, kRows}, context{kRows}, blocks{3, 0, 5, 1, 4, 2};
  BatchView batch;
  batch.rows = kRows;
  batch.seqs = 1;
  batch.first_row = test::ints(first_row);
  batch.context = test::ints(context);
  CacheIndex index;
  index.block_table = Tensor(blocks.data(), DType::kI32, {1, 6});
  std::vector<float> sinks{-2, 0, 1, 2, 3, 4};
  const AttentionShape shape{kHeads, kKvHeads, kDim, 0.2f, 70, {}, 0, false, {}, test::floats(sinks)};
  Pool pool(2, true);
  CpuIsa vectors = best;
  vectors.amx_bf16 = false;
  AttentionOp(best, pool).run(one.tensor(), q.tensor(), batch, index, shape, cache);
  AttentionOp(vectors, pool).run(other.tensor(), q.tensor(), batch, index, shape, cache);
  double worst = 0;
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kHeads * kDim; ++c)
      worst = std::max(worst, std::abs(static_cast<double>(one.at(r, c)) - static_cast<double>(other.at(r, c))));
  }
  // Weights rounded to bf16 of values up to 5: below 2^-8 * 5, and certainly not zero.
  CHECK(worst < 5 * 0x1p-8);
  CHECK(worst > 0);
}

}  // namespace
}  // namespace sluice
