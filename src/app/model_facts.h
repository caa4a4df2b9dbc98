// SPDX-License-Identifier: Apache-2.0
// What clients are told of the model: names, dtype, and the sampling defaults of generation_config.json.
#pragma once

#include "api/service.h"
#include "app/served_model.h"
#include "engine/executor.h"

namespace sluice {

// From served-model-name, else as the user gave the model. Throws Error when a name is empty.
std::vector<std::string> served_names(const Settings& settings, const ServedModel& model);
// `names`: the first is told, all are answered to. Throws Error when generation_config.json is not JSON or a default is
// out of range.
ModelFacts read_model_facts(const ServedModel& model, const std::vector<std::string>& names,
                            const ExecutorInfo& executor);

}  // namespace sluice
