// SPDX-License-Identifier: Apache-2.0
// What every verb of the command line is made of.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <utility>

namespace sluice {

// A subcommand and its options, which live as long as it does. Its callback runs `run` with them and keeps the exit
// code.
template <typename Options, typename Run>
std::pair<CLI::App*, Options*> add_verb(CLI::App& app, const char* name, const char* help, int& exit_code, Run run) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand(name, help);
  verb->callback([options, run, &exit_code] { exit_code = run(*options); });
  return {verb, options.get()};
}

}  // namespace sluice
