// SPDX-License-Identifier: Apache-2.0
// The one list of settings. Names of the founding systems (TGI, the Slurm scripts around it) are honoured as variables.
#pragma once

#include "app/options.h"

namespace sluice {

struct SettingRow {
  Topic topic;
  Setting setting;  // name, variables, default, help
};
const std::vector<SettingRow>& settings_table();

}  // namespace sluice
