// SPDX-License-Identifier: Apache-2.0
// Which device this rank computes on, and the groups of ranks on GPUs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/cuda.h"
#include "base/settings.h"
#include "cluster/launch.h"
#include "cluster/placement.h"
#include "comm/communicator.h"
#include "control/control.h"
#include "model/model.h"

namespace sluice {

struct RankDevice {
  bool cuda = false;
  int index = 0;                      // among the visible GPUs
  CudaDevice device;                  // of a GPU rank
  int visible = 0;                    // GPUs that this rank sees
  std::string why_not;                // auto on a CPU although there is a driver: what keeps a GPU from being used
  std::vector<std::string> warnings;  // for the log
};

// By --device: cpu asks nothing of CUDA; cuda fails with the reason where there is no GPU; auto takes one where there
// is. Throws Error.
RankDevice choose_rank_device(const Settings& settings, const Launch& launch);

// With every rank's place known: all on GPUs or all on CPUs, one rank per GPU. Returns warnings. Throws Error naming
// ranks.
std::vector<std::string> check_rank_devices(const std::vector<RankPlace>& places, int tp);

// The backend of this rank. Throws Error.
std::unique_ptr<Backend> make_rank_backend(const Settings& settings, const RankDevice& device, int local_ranks);

// --load-threads of a rank that shares its CPUs with `local_ranks`. Throws Error.
int64_t load_threads(const Settings& settings, int local_ranks);

// tp, pp and the way back over NCCL, tested; world over the control plane. Called on the thread that runs the steps.
// Throws Error naming the ranks that are missing.
Groups make_cuda_groups(const Settings& settings, const RankGroups& mine, ControlPlane& control,
                        const Backend& backend);

// Refuses, before anything is read, a model that does not fit the GPU of this rank, with the numbers and what would.
void require_gpu_memory(const Settings& settings, const ModelSource& source, const ModelInfo& info,
                        const Layout& layout, const Backend& backend);

// GPU memory that the libraries and the backend take by and by while steps run: ExecutorOptions::spare_bytes.
size_t gpu_spare_bytes(const ModelInfo& info);

}  // namespace sluice
