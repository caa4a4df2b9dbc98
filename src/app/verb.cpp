// SPDX-License-Identifier: Apache-2.0
#include "app/verb.h"

#include <CLI/CLI.hpp>
#include <filesystem>

namespace sluice {

std::string folder_is_there(const std::string& file) {
  const std::filesystem::path folder = std::filesystem::absolute(file).parent_path();
  std::error_code error;
  return std::filesystem::is_directory(folder, error) ? "" : "there is no folder " + folder.string();
}

CLI::App* add_verb(CLI::App& app, const char* name, const char* help, int& exit_code, std::function<int()> run) {
  CLI::App* verb = app.add_subcommand(name, help);
  verb->callback([run = std::move(run), &exit_code] { exit_code = run(); });
  return verb;
}

}  // namespace sluice
