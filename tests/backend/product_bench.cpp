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
