// SPDX-License-Identifier: Apache-2.0
// How fast packed products are beside the read bandwidth: `product_bench [bf16|f16|f32|int8|int4] [threads] [rows
// ...]`. Weights (half a gibibyte of different matrices) never come from a cache. Each timing of a product is paired
// with a read of 2 GiB just before it; a line gives the best rates and the median of the paired ratios.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/error.h"

namespace sluice {
namespace {

// Experts as narrow as published ones, one row at `used` of `experts`, beside one dense product of as many bytes: the
// median of the ratios of their rates, taken in turns.
void compare_experts(Backend& backend, Scheme scheme, int64_t experts, int64_t used, int64_t width, int64_t depth) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(static_cast<size_t>(width * used * depth));
  for (float& v : values) v = normal(random);
  std::vector<std::unique_ptr<Weight>> members, dense;
  for (int64_t i = 0; i < experts; ++i)
    members.push_back(backend.pack({values.data(), DType::kF32, width, depth, depth}, scheme));
  for (int64_t i = 0; i < experts / used; ++i)
    dense.push_back(backend.pack({values.data(), DType::kF32, width * used, depth, depth}, scheme));
  const auto group = backend.group(std::move(members));
  const Buffer x = backend.allocate(static_cast<size_t>(used * depth) * 4);
  const Buffer out = backend.allocate(static_cast<size_t>(used * width) * 4);
  backend.copy_in(x.view(DType::kF32, {used, depth}), values.data());
  std::vector<int32_t> offsets(static_cast<size_t>(experts) + 1);
  std::vector<double> ratios;
  double best[2] = {1e9, 1e9};
  for (int64_t round = 0; round < 40 * (experts / used); ++round) {
    const int64_t turn = round % (experts / used);
    for (int64_t e = 0; e <= experts; ++e) {
      offsets[static_cast<size_t>(e)] = static_cast<int32_t>(std::clamp<int64_t>(e - turn * used, 0, used));
    }
    const double started = monotonic_seconds();
    backend.grouped_gemm(out.view(DType::kF32, {used, width}), x.view(DType::kF32, {used, depth}), *group,
                         Tensor(offsets.data(), DType::kI32, {experts + 1}), {});
    const double middle = monotonic_seconds();
    backend.linear(out.view(DType::kF32, {1, width * used}), x.view(DType::kF32, {1, depth}),
                   *dense[static_cast<size_t>(turn)], {});
    const double grouped = middle - started, whole = monotonic_seconds() - middle;
    best[0] = std::min(best[0], grouped), best[1] = std::min(best[1], whole);
    ratios.push_back(whole / grouped);
  }
  std::sort(ratios.begin(), ratios.end());
  const double bytes = static_cast<double>(width * used * depth) * (scheme == Scheme::kF32 ? 4 : 2);
  fmt::print("{} of {} experts [{}, {}]: {:.1f} GB/s, dense {:.1f} GB/s, median ratio {:.2f}\n", used, experts, width,
             depth, bytes / best[0] * 1e-9, bytes / best[1] * 1e-9, ratios[ratios.size() / 2]);
}

int run(const std::vector<std::string>& args) {
  const std::string dtype = args.empty() ? "bf16" : args[0];
  const Scheme scheme = dtype == "f32"    ? Scheme::kF32
                        : dtype == "f16"  ? Scheme::kF16
                        : dtype == "int8" ? Scheme::kInt8
                        : dtype == "int4" ? Scheme::kInt4
                                          : Scheme::kBF16;
  CpuOptions options;
  if (args.size() > 1) options.threads = std::stoi(args[1]);
  std::vector<int64_t> counts;
  for (size_t i = 2; i < args.size(); ++i) counts.push_back(std::stoll(args[i]));
  if (counts.empty()) counts = {1, 2, 4, 8, 16, 32, 64, 128, 512};
  const auto backend = make_cpu_backend(options);
  fmt::print("{}\n", backend->describe());
  compare_experts(*backend, scheme, 64, 8, 1536, 2048);
  compare_experts(*backend, scheme, 64, 8, 2048, 768);
  compare_experts(*backend, scheme, 8, 2, 7168, 4096);

  constexpr int64_t kIn = 2048, kOut = 8192;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(static_cast<size_t>(kIn * kOut));
  for (float& v : values) v = normal(random);
  std::vector<std::unique_ptr<Weight>> weights;
  weights.push_back(backend->pack({values.data(), DType::kF32, kOut, kIn, kIn}, scheme));
  const size_t bytes = weights[0]->bytes();
  const int64_t matrices = static_cast<int64_t>((size_t{512} << 20) / bytes);
  for (int64_t i = 1; i < matrices; ++i)
    weights.push_back(backend->pack({values.data(), DType::kF32, kOut, kIn, kIn}, scheme));
  const int64_t most = *std::max_element(counts.begin(), counts.end());
  const Buffer x = backend->allocate(static_cast<size_t>(most * kIn) * 4);
  const Buffer out = backend->allocate(static_cast<size_t>(most * kOut) * 4);
  backend->copy_in(x.view(DType::kF32, {std::min(most, kOut), kIn}), values.data());

  fmt::print("{:>5} {:>9} {:>8} {:>8} {:>7} {:>9}\n", "rows", "ms", "GB/s", "read", "share", "GFLOP/s");
  for (const int64_t rows : counts) {
    const Tensor in = x.view(DType::kF32, {rows, kIn}), to = out.view(DType::kF32, {rows, kOut});
    double best = 1e9, best_read = 0;
    std::vector<double> shares;
    const int64_t used = rows >= 128 ? std::min<int64_t>(matrices, 8) : matrices;
    for (int round = 0; round < 5; ++round) {
      const double read = backend->probe_read_gbps(size_t{2} << 30);
      const double started = monotonic_seconds();
      for (int64_t i = 0; i < used; ++i) backend->linear(to, in, *weights[static_cast<size_t>(i)], {});
      const double seconds = (monotonic_seconds() - started) / static_cast<double>(used);
      best = std::min(best, seconds);
      best_read = std::max(best_read, read);
      shares.push_back(static_cast<double>(bytes) / seconds * 1e-9 / read);
    }
    std::sort(shares.begin(), shares.end());
    fmt::print("{:>5} {:>9.3f} {:>8.1f} {:>8.1f} {:>7.2f} {:>9.1f}\n", rows, best * 1e3,
               static_cast<double>(bytes) / best * 1e-9, best_read, shares[shares.size() / 2],
               2.0 * static_cast<double>(rows * kIn * kOut) / best * 1e-9);
  }
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  try {
    return sluice::run({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 2;
  }
}
