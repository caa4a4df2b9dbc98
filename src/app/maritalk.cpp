// SPDX-License-Identifier: Apache-2.0
// Called under the name maritalk, the binary takes the options of MariTalk Local's executable, as its Python client's
// start_server passes them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>

#include "app/help.h"
#include "app/verbs.h"

namespace sluice {
namespace {

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

}  // namespace

bool called_as_maritalk(const char* name) {
  return std::filesystem::path(name).filename().string().starts_with("maritalk");
}

int read_maritalk(int argc, char** argv, std::vector<std::string>& arguments) {
  CLI::App app("Serves MODEL_ID as MariTalk Local does: http://localhost:9000, without a key.", "maritalk");
  set_help(app);
  std::string license, batch;
  int port = 9000;
  bool interactive = false;
  app.add_option("--license", license, "As the original asks for it; no licence is needed and none is checked.");
  app.add_option("-p,--port", port, "Port to listen on.")->capture_default_str()->check(CLI::Range(1, 65535));
  app.add_option("--max-batch-total-tokens", batch, "Tokens that the cache holds.");
  app.add_flag("--interactive", interactive, "A conversation at the terminal instead of a server.");
  app.set_version_flag("-V,--version", SLUICE_VERSION);
  app.footer("The model is MODEL_ID (or SLUICE_MODEL). Listens on 127.0.0.1 unless SLUICE_HOST says otherwise.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    fmt::print(stderr, "maritalk: {}\nmaritalk --help says what it takes\n", error.what());
    return 2;
  }
  if (interactive) {
    const char* model = is_set("SLUICE_MODEL") ? std::getenv("SLUICE_MODEL") : std::getenv("MODEL_ID");
    arguments = {"chat"};
    if (model != nullptr) arguments.emplace_back(model);
  } else {
    arguments = {"serve"};
    const bool socket = is_set("SLUICE_HOST") && std::string_view(std::getenv("SLUICE_HOST")).starts_with("unix:");
    if (!socket) arguments.insert(arguments.end(), {"--port", std::to_string(port)});
    // The client has no way to send a key; without one, only this machine may ask.
    if (!is_set("SLUICE_AUTH") && !is_set("AUTH")) arguments.insert(arguments.end(), {"--auth", "none"});
    if (!is_set("SLUICE_HOST")) arguments.insert(arguments.end(), {"--host", "127.0.0.1"});
    // start_server never reads the pipe that it opens: a talkative server would stand still once it is full.
    if (!is_set("SLUICE_LOG_LEVEL") && !is_set("LOG_LEVEL"))
      arguments.insert(arguments.end(), {"--log-level", "warning"});
    fmt::print("Starting MariTalk Local API at http://localhost:{}\n", port);
    std::fflush(stdout);
  }
  if (!batch.empty() && !interactive) arguments.insert(arguments.end(), {"--max-batch-total-tokens", batch});
  return -1;
}

}  // namespace sluice
