// SPDX-License-Identifier: Apache-2.0
// Every setting of the program: flag, environment variables, default, help. `sluice info` prints the result.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/settings.h"
#include "engine/request.h"
#include "model/model.h"

namespace CLI {
class App;
}

namespace sluice {

// Which settings a verb takes.
enum class Topic { kModel, kRun, kServer, kSampling };

// The settings of these topics with values from the environment and defaults.
Settings make_settings(const std::vector<Topic>& topics);
// One flag per setting; a flag given on the command line overrides with origin "--name". `settings` outlives the parse.
// `without`: settings that the verb reads nowhere, or takes in another way.
void add_flags(CLI::App& app, Settings& settings, const std::vector<std::string_view>& without = {});
// The model as a word of the command line. Throws Error where --model names another.
void set_model(Settings& settings, const std::string& model);

// Before anything is read or loaded: refuses a value that no run could take, whether or not this one reads it, and
// warns about variables of other servers that have no counterpart here. Throws Error.
void check_settings(const Settings& settings);

// --quantize as ModelSource has it: "int8", "int4", "gptq", "awq" or empty. Throws Error naming what is known.
std::string quantize_setting(const Settings& settings);
// "null": 0, "null:RATE": steps per second of the null model; nothing for any other model. Throws Error on a bad rate.
std::optional<double> null_rate(const std::string& model);
// --model or --random-init. Throws Error when neither or both are given, or the folder is not a checkpoint.
ModelSource model_source(const Settings& settings);
// Parameters for offline prompts and chat. Throws Error.
GenerateRequest default_request(const Settings& settings);

}  // namespace sluice
