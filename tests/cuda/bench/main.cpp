// SPDX-License-Identifier: Apache-2.0
// Times every kernel on a GPU by itself, with the shapes of llama-3-8b and llama-3.2-1b: microseconds of a launch
// inside a graph whose launches take turns over buffers larger than the caches, and what that is of the bytes and FLOPs
// that docs/kernels.md says each must move.
//   cuda_kernels_bench [FILTER] [--json FILE]
#include "bench.h"
#include "rows.h"

namespace sluice::bench {
namespace {

void probe(Bench& bench) {
  const size_t bytes = size_t{2} << 30;
  const Shared from = memory(bytes, kBF16), sum = memory(256, kZero);
  int device = 0, n = 0;
  ok(cudaGetDevice(&device));
  ok(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
  const double us = bench.microseconds(
      [&](int, cudaStream_t s) { return read_probe(sum->at<uint32_t>(), from->at(), bytes, 8 * n, s); }, 1);
  bench.read_gbps = static_cast<double>(bytes) / us * 1e-3;
  std::printf("%-44s %9.2f us %8.0f GB/s\n", "read_probe, 2 GiB", us, bench.read_gbps);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::Bench bench;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      bench.json = argv[++i];
    } else if (argv[i][0] != '-' && bench.filter.empty()) {
      bench.filter = argv[i];
    } else {
      std::fprintf(stderr, "error: unexpected argument %s. Usage: %s [FILTER] [--json FILE]\n", argv[i], argv[0]);
      return 2;
    }
  }
  sluice::bench::ok(cudaStreamCreateWithFlags(&bench.stream, cudaStreamNonBlocking));
  sluice::bench::probe(bench);
  sluice::bench::bench_products(bench);
  sluice::bench::bench_narrow(bench);
  sluice::bench::bench_attention(bench);
  sluice::bench::bench_rows(bench);
  sluice::bench::bench_sampling(bench);
  if (bench.json.empty()) return 0;
  std::FILE* file = std::fopen(bench.json.c_str(), "w");
  if (file == nullptr) {
    std::fprintf(stderr, "error: cannot write %s\n", bench.json.c_str());
    return 1;
  }
  std::fprintf(file, "{\"read_gbps\": %.1f, \"kernels\": [", bench.read_gbps);
  for (size_t i = 0; i < bench.rows.size(); ++i)
    std::fprintf(file, "%s\n  %s", i > 0 ? "," : "", bench.rows[i].c_str());
  std::fprintf(file, "\n]}\n");
  return std::fclose(file) == 0 ? 0 : 1;
}
