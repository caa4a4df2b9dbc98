// SPDX-License-Identifier: Apache-2.0
// A short external command (squeue) with a deadline. The child inherits no launcher variable, no blocked signal and no
// descriptor.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace sluice {

struct CommandResult {
  int exit_code = -1;  // 128 + signal when killed
  std::string output;  // standard output, at most 1 MiB
};

// nullopt when the program is missing or the deadline (seconds) passes; the child is then killed and reaped.
using CommandRunner =
    std::function<std::optional<CommandResult>(const std::vector<std::string>& arguments, double deadline)>;
std::optional<CommandResult> run_command(const std::vector<std::string>& arguments, double deadline);

}  // namespace sluice
