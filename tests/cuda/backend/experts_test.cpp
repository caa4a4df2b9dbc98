// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts and rotations of the CUDA backend against the CPU's.
#include "cuda/backend/twin.h"

namespace sluice {
namespace {
using test::Side;

// Memory of a Routing of `rows` rows over `local` experts from `first` on.
struct Routed {
  Routed(Side& side, int64_t rows, int64_t k, int64_t first, int64_t local) {
    view.first_expert = first;
    view.offsets = side.ints(std::vector<int32_t>(static_cast<size_t>(local) + 1, -7));
    view.rows = side.ints(std::vector<int32_t>(static_cast<size_t>(rows * k), -7));
    view.places = side.ints(std::vector<int32_t>(static_cast<size_t>(rows * k), -7)).reshaped({rows, k});
    view.weights = side.put({}, rows, k, 0, DType::kF32);
  }
  Routing view;
};

std::vector<int32_t> read_ints(Side& side, const Tensor& t) {
  std::vector<int32_t> out(static_cast<size_t>(t.elements()));
  if (!out.empty()) side->copy_out(out.data(), t);
  return out;
}

TEST_CASE("route sends every row where the CPU sends it, ties and experts held elsewhere included") {
  std::mt19937 random(11);
  for (const bool renormalise : {false, true}) {
    for (const auto& [experts, k] : {std::pair<int64_t, int64_t>{8, 2}, {5, 1}, {60, 4}, {3, 3}, {130, 8}}) {
      for (const int64_t rows : {1, 37, 300}) {
        std::vector<float> logits = test::normal(random, rows * experts, DType::kF32, 2.0f);
        for (int64_t e = 0; e < experts; ++e) logits[static_cast<size_t>((rows / 2) * experts + e)] = 1.0f;
        for (const auto& [first, local] :
             {std::pair<int64_t, int64_t>{0, experts}, {experts / 2, experts - experts / 2}, {1, 0}}) {
          CAPTURE(experts);
          CAPTURE(rows);
          CAPTURE(local);
          Side gpu(test::make_cuda(), DType::kF32), cpu = test::cpu_side();
          Routed got(gpu, rows, k, first, local), want(cpu, rows, k, first, local);
          gpu->route(got.view, gpu.put(logits, rows, experts, 3, DType::kF32), {k, renormalise});
          cpu->route(want.view, cpu.put(logits, rows, experts, 3, DType::kF32), {k, renormalise});
          CHECK(read_ints(gpu, got.view.offsets) == read_ints(cpu, want.view.offsets));
          CHECK(read_ints(gpu, got.view.rows) == read_ints(cpu, want.view.rows));
          CHECK(read_ints(gpu, got.view.places) == read_ints(cpu, want.view.places));
          test::check_near(gpu.read(got.view.weights), cpu.read(want.view.weights), DType::kF32, 64, 0.1);
        }
      }
    }
  }
}

TEST_CASE("grouped_gemm multiplies the rows of each expert and leaves the others alone, in every scheme") {
  std::mt19937 random(12);
  const std::vector<int32_t> counts{0, 1, 5, 0, 70, 17, 0};
  std::vector<int32_t> offsets{0};
  for (const int32_t n : counts) offsets.push_back(offsets.back() + n);
  for (const Scheme scheme : {Scheme::kF32, Scheme::kBF16, Scheme::kF16, Scheme::kInt8, Scheme::kInt4}) {
    const bool narrow = scheme == Scheme::kInt8 || scheme == Scheme::kInt4;
    const DType dtype = scheme == Scheme::kBF16 ? DType::kBF16 : scheme == Scheme::kF16 ? DType::kF16 : DType::kF32;
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{40, 64}, {24, 36}}) {
      CAPTURE(static_cast<int>(scheme));
      CAPTURE(k);
      const int64_t rows = offsets.back() + 9;
      Side gpu(test::make_cuda(), dtype);
      const auto x = test::normal(random, rows * k, dtype);
      std::vector<std::unique_ptr<Weight>> members, alone;
      for (size_t e = 0; e < counts.size(); ++e) {
        const auto w = test::normal(random, n * k, dtype, 0.2f);
        const HostMatrix host{w.data(), DType::kF32, n, k, k};
        members.push_back(gpu->pack(host, scheme));
        alone.push_back(gpu->pack(host, scheme));
      }
      const auto group = gpu->group(std::move(members));
      const std::vector<float> before(static_cast<size_t>(rows * n), 3.0f);
      const Tensor out = gpu.matrix(before, rows, n, 8), d_x = gpu.matrix(x, rows, k, 8);
      const auto n_experts = static_cast<int64_t>(counts.size());
      const auto bias = test::normal(random, n_experts * n);
      const Tensor d_bias = k == 36 ? Tensor{} : gpu.put(bias, n_experts, n, 0, DType::kF32);
      gpu->grouped_gemm(out, d_x, *group, gpu.ints(offsets), d_bias);
      std::vector<float> want = before;
      for (size_t e = 0; e < counts.size(); ++e) {
        if (counts[e] == 0) continue;
        const Tensor part = gpu.empty(counts[e], n);
        const Tensor own = d_bias ? Tensor(d_bias.row(static_cast<int64_t>(e)), DType::kF32, {n}) : Tensor{};
        gpu->linear(part, d_x.rows(offsets[e], counts[e]), *alone[e], {own, {}});
        const std::vector<float> values = gpu.read(part);
        std::copy(values.begin(), values.end(), want.begin() + offsets[e] * n);
      }
      test::check_near(gpu.read(out), want, dtype, narrow || dtype == DType::kF32 ? 64 : 4, 4.0);
    }
  }
}

TEST_CASE("combine and add_gated equal the CPU's") {
  std::mt19937 random(13);
  const int64_t rows = 19, k = 3, experts = 6;
  for (const DType dtype : test::kTypes) {
    for (const int64_t width : {64, 37}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(width);
      const auto logits = test::normal(random, rows * experts);
      const auto y = test::normal(random, rows * k * width, dtype), x = test::normal(random, rows * width, dtype),
                 gate = test::normal(random, rows, dtype);
      const auto run = [&](Side& side) {
        Routed routed(side, rows, k, 1, 4);  // some are held elsewhere
        side->route(routed.view, side.put(logits, rows, experts, 0, DType::kF32), {k, true});
        const Tensor out = side.empty(rows, width, 8);
        side->combine(out, side.matrix(y, rows * k, width, 8), routed.view);
        side->add_gated(out, side.matrix(x, rows, width), side.matrix(gate, rows, 1));
        return side.read(out);
      };
      Side gpu(test::make_cuda(), dtype), cpu = test::cpu_side();
      test::check_near(run(gpu), run(cpu), dtype, dtype == DType::kF32 ? 16 : 3, 2.0);
    }
  }
}

TEST_CASE("clamped_swiglu equals the CPU's") {
  std::mt19937 random(15);
  for (const DType dtype : test::kTypes) {
    const auto pairs = test::normal(random, 19 * 74, dtype, 6.0f);
    const auto run = [&](Side& side) {
      const Tensor out = side.empty(19, 37, 8);
      side->clamped_swiglu(out, side.matrix(pairs, 19, 74, 8));
      return side.read(out);
    };
    Side gpu(test::make_cuda(), dtype), cpu = test::cpu_side();
    test::check_near(run(gpu), run(cpu), dtype, dtype == DType::kF32 ? 16 : 1, 2.0);
  }
}

TEST_CASE("rotations of sequences short and long equal the CPU's") {
  std::mt19937 random(14);
  const int64_t half = 20;
  const std::vector<int32_t> positions{0, 3, 100, 700, 31, 40, 5000}, lengths{1, 200, 0, 16, 33, 41, 3};
  const auto n = static_cast<int64_t>(positions.size());
  std::vector<float> frequencies;
  for (int64_t i = 0; i < 2 * half; ++i)
    frequencies.push_back(std::pow(10000.0f, -static_cast<float>(i % half) / half) / (i < half ? 1.0f : 4.0f));
  for (const float growth : {0.0f, 40.0f / 38.0f}) {
    const auto run = [&](Side& side) {
      LengthRotation rule;
      rule.frequencies = side.put(frequencies, 2, half, 0, DType::kF32);
      rule.original = 64;
      rule.scale = 1.2f;
      rule.theta = 10000.0f;
      rule.factor = 2.0f;
      rule.growth = growth;
      const Tensor out = side.put({}, n, 2 * half, 4, DType::kF32);
      side->rotations(out, side.ints(positions), side.ints(lengths), rule);
      return side.read(out);
    };
    Side gpu(test::make_cuda(), DType::kF32), cpu = test::cpu_side();
    test::check_near(run(gpu), run(cpu), DType::kF32, 64, 1.0);
  }
}

}  // namespace
}  // namespace sluice
