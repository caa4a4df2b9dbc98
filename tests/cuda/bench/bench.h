// SPDX-License-Identifier: Apache-2.0
// What the timings of kernels share: device memory with numbers in it, a case, and its time inside a graph.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "types.h"

namespace sluice::bench {

using namespace kernels;

inline void ok(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "error: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

// Device memory, filled with small bf16 numbers, f32 ones or zeros.
class Memory {
 public:
  enum class Fill { kZero, kBF16, kF32, kBytes };
  Memory(size_t bytes, Fill fill) {
    ok(cudaMalloc(&data_, std::max<size_t>(bytes, 256)));
    ok(cudaMemset(data_, 0, bytes));
    if (fill == Fill::kZero || bytes == 0) return;
    std::vector<uint32_t> tile(size_t{1} << 18);
    uint32_t state = 12345;
    for (uint32_t& word : tile) {
      state = state * 1664525u + 1013904223u;
      const uint32_t bits = state >> 8;
      const float value = (static_cast<float>(bits) / 8388608.0f - 1.0f) * 0.5f;
      if (fill == Fill::kF32) {
        std::memcpy(&word, &value, 4);
      } else if (fill == Fill::kBytes) {
        word = bits & 0x3f3f3f3fu;
      } else {
        uint32_t raw;
        std::memcpy(&raw, &value, 4);
        word = raw >> 16 | (raw & 0xffff0000u);
      }
    }
    for (size_t done = 0; done < bytes; done += tile.size() * 4)
      ok(cudaMemcpy(static_cast<char*>(data_) + done, tile.data(), std::min(bytes - done, tile.size() * 4),
                    cudaMemcpyHostToDevice));
  }
  Memory(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }
  template <class T = void>
  T* at(size_t elements = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + elements * bytes_of<T>());
  }
  template <class T>
  void write(const std::vector<T>& values) {
    ok(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }

 private:
  template <class T>
  static constexpr size_t bytes_of() {
    if constexpr (std::is_void_v<T>) {
      return 1;
    } else {
      return sizeof(T);
    }
  }
  void* data_ = nullptr;
};
using Shared = std::shared_ptr<Memory>;
inline Shared memory(size_t bytes, Memory::Fill fill) { return std::make_shared<Memory>(bytes, fill); }
constexpr auto kZero = Memory::Fill::kZero, kBF16 = Memory::Fill::kBF16, kF32 = Memory::Fill::kF32,
               kBytes = Memory::Fill::kBytes;

struct Case {
  std::string name;
  double bytes, flops;  // of one launch
  int copies;           // of what it reads
  std::function<cudaError_t(int copy, cudaStream_t)> run;
};

inline int copies_for(double bytes) { return static_cast<int>(std::clamp(256e6 / std::max(bytes, 1.0), 1.0, 32.0)); }

struct Bench {
  cudaStream_t stream = nullptr;
  double read_gbps = 0;
  std::string filter, json;
  std::vector<std::string> rows;

  double microseconds(const std::function<cudaError_t(int, cudaStream_t)>& run, int copies) {
    const int launches = std::max(24, copies);
    for (int i = 0; i < 2; ++i) ok(run(i % copies, stream));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; ++i) ok(run(i % copies, stream));
    ok(cudaStreamEndCapture(stream, &graph));
    ok(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t begin, end;
    ok(cudaEventCreate(&begin));
    ok(cudaEventCreate(&end));
    std::vector<float> times;
    for (int i = 0; i < 6; ++i) {
      ok(cudaEventRecord(begin, stream));
      ok(cudaGraphLaunch(exec, stream));
      ok(cudaEventRecord(end, stream));
      ok(cudaEventSynchronize(end));
      float ms = 0;
      ok(cudaEventElapsedTime(&ms, begin, end));
      if (i > 0) times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    ok(cudaEventDestroy(begin));
    ok(cudaEventDestroy(end));
    ok(cudaGraphExecDestroy(exec));
    ok(cudaGraphDestroy(graph));
    return static_cast<double>(times[times.size() / 2]) * 1e3 / launches;
  }

  bool wanted(const std::string& name) const { return name.find(filter) != std::string::npos; }
  // `make` allocates; it is called for wanted cases alone.
  void measure(const std::string& name, const std::function<Case()>& make) {
    if (!wanted(name)) return;
    const Case c = make();
    const double us = microseconds(c.run, c.copies), gbps = c.bytes / us * 1e-3;
    std::printf("%-44s %9.2f us %8.0f GB/s %5.2f of the probe", name.c_str(), us, gbps, gbps / read_gbps);
    if (c.flops > 0) std::printf(" %7.1f TFLOP/s", c.flops / us * 1e-6);
    std::printf("\n");
    std::fflush(stdout);
    char row[256];
    std::snprintf(row, sizeof row,
                  "{\"kernel\": \"%s\", \"us\": %.3f, \"gbps\": %.1f, \"share\": %.3f, \"tflops\": %.2f}", name.c_str(),
                  us, gbps, gbps / read_gbps, c.flops / us * 1e-6);
    rows.emplace_back(row);
  }
};

struct Shape {
  const char* name;
  int64_t width, heads, kv_heads, dim, mlp;
};
constexpr Shape kLarge{"8b", 4096, 32, 8, 128, 14336}, kSmall{"1b", 2048, 32, 8, 64, 8192};
constexpr int64_t kVocab = 128256;

void bench_products(Bench& bench);
void bench_narrow(Bench& bench);
void bench_attention(Bench& bench);
void bench_rows(Bench& bench);
void bench_sampling(Bench& bench);

}  // namespace sluice::bench
