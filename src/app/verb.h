// SPDX-License-Identifier: Apache-2.0
// What every verb of the command line is made of.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace CLI {
class App;
}

namespace sluice {

// A check for an option that names a file to write: its folder must be there before the work begins.
std::string folder_is_there(const std::string& file);

// A subcommand whose callback runs `run` and keeps the exit code.
CLI::App* add_verb(CLI::App& app, const char* name, const char* help, int& exit_code, std::function<int()> run);

// The same with its options, which live as long as it does and which `run` is given.
template <typename Options, typename Run>
std::pair<CLI::App*, Options*> add_verb(CLI::App& app, const char* name, const char* help, int& exit_code, Run run) {
  const auto options = std::make_shared<Options>();
  return {add_verb(app, name, help, exit_code, [options, run] { return run(*options); }), options.get()};
}

}  // namespace sluice
