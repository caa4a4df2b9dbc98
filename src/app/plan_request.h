// SPDX-License-Identifier: Apache-2.0
// What `plan` and `launch` ask of a model before anything is queued.
#pragma once

#include <string>

#include "launch/plan.h"
#include "weights/packed.h"

namespace sluice {

struct ModelQuery {
  std::string model;  // folder, config.json, downloaded name or named shape
  std::string revision, dtype = "auto", quantize;
};
// Neither a named shape nor a folder or file here.
bool is_downloaded(const std::string& model);
// Reads the config; `context` 0: the model's, at most 4096. Throws Error.
PlanRequest plan_request(const ModelQuery& query, int64_t context);
// Of a folder of packed weights, which run on the CPUs of so many ranks alone.
std::optional<PackedLayout> packed_layout(const ModelQuery& query);

}  // namespace sluice
