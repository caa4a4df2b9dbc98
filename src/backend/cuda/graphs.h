// SPDX-License-Identifier: Apache-2.0
// Steps of a fixed shape as CUDA graphs: run once as they are, recorded the second time, replayed from then on.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <unordered_map>

namespace sluice::cuda {

class Graphs {
 public:
  explicit Graphs(cudaStream_t stream) : stream_(stream) {}
  ~Graphs() { clear(); }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // Backend::run_step. The first run of a key sizes workspaces and picks algorithms, which a recording may not do.
  void run(uint64_t key, const std::function<void()>& body);
  void clear();  // a graph that runs still ends first
  size_t recorded() const { return recorded_; }

 private:
  struct Step {
    cudaGraphExec_t graph = nullptr;  // null after the first run
  };
  cudaStream_t stream_;
  std::unordered_map<uint64_t, Step> steps_;
  size_t recorded_ = 0;
};

}  // namespace sluice::cuda
