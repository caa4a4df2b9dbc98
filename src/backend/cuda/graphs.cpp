// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/graphs.h"

#include "backend/cuda/check.h"

namespace sluice::cuda {

void Graphs::clear() {
  for (const auto& [key, step] : steps_)
    if (step.graph != nullptr) cudaGraphExecDestroy(step.graph);
  steps_.clear();
}

void Graphs::run(uint64_t key, const std::function<void()>& body) {
  if (key == 0) return body();
  const auto [found, fresh] = steps_.try_emplace(key);
  if (fresh) return body();
  Step& step = found->second;
  if (step.graph == nullptr) {
    cudaGraph_t graph = nullptr;
    // Only this thread's calls are held to what a recording allows: others may be loading or waiting.
    SLUICE_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    body();
    SLUICE_CUDA(cudaStreamEndCapture(stream_, &graph));
    SLUICE_CUDA(cudaGraphInstantiate(&step.graph, graph, 0));
    SLUICE_CUDA(cudaGraphDestroy(graph));
    SLUICE_CUDA(cudaGraphUpload(step.graph, stream_));
    ++recorded_;
  }
  SLUICE_CUDA(cudaGraphLaunch(step.graph, stream_));
}

}  // namespace sluice::cuda
