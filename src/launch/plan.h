// SPDX-License-Identifier: Apache-2.0
// Does a model fit, and on what: sizes from its config alone, before anything is queued.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/gpu_types.h"
#include "model/model.h"

namespace sluice {

struct PlanRequest {
  ModelInfo model;
  double bytes_per_weight = 2;  // of matrices, as they are stored on the device
  double bytes_per_cache = 2;   // of one cached element
  int64_t context = 0;          // tokens of one sequence
  int64_t sequences = 1;        // that must fit at once
  double utilization = 0.9;     // share of the device's memory that may be used
  int gpus_per_node = 4;
  int64_t step_rows = 512;  // token budget of a step
};

// One way to run it.
struct Fit {
  GpuType gpu;
  int tp = 1, pp = 1;
  double weights_gib = 0;    // of the fullest rank
  double fixed_gib = 0;      // context, libraries, scratch
  double room_gib = 0;       // left for the cache on the tightest rank
  int64_t cache_tokens = 0;  // that this room holds
  double tokens_per_s = 0;   // predicted limit of one sequence: weights over bandwidth; 0 when unknown
  int ranks() const { return tp * pp; }
  int nodes(int gpus_per_node) const { return (ranks() + gpus_per_node - 1) / gpus_per_node; }
};

// The smallest number of GPUs of this type on which it fits: tensor parallel inside a node, pipeline stages across.
// nullopt when none up to 64 GPUs does (a MIG slice: one), or the kind is too old for the CUDA backend.
std::optional<Fit> smallest_fit(const PlanRequest& request, const GpuType& gpu);
// A given layout; room_gib is negative where it does not fit. Throws Error for a layout that cannot exist (more stages
// than layers, tensor parallel slices).
Fit layout_fit(const PlanRequest& request, const GpuType& gpu, int tp, int pp);

// sbatch line for a fit.
std::string submit_line(const PlanRequest& request, const Fit& fit, const std::string& model);

}  // namespace sluice
