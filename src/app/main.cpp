// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "app/help.h"
#include "app/verbs.h"
#include "base/error.h"
#include "base/terminal.h"

namespace {
// srun ends the step as soon as one task leaves with an error, and may then drop what that task has just written.
int leave(int exit_code) {
  std::fflush(stderr);
  if (std::getenv("SLURM_STEP_ID") != nullptr) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  return exit_code;
}
}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that goes away is an error of the write to it
  // The allocator would give nearly every connection's thread an arena of its own, and each keeps what it once held.
  mallopt(M_ARENA_MAX, 4);
  CLI::App app("Serves large language models from inside a Slurm job.", "sluice");
  app.set_version_flag("--version", SLUICE_VERSION);
  app.require_subcommand(1);
  sluice::set_help(app);
  int exit_code = 0;
  sluice::add_serve(app, exit_code);
  sluice::add_generate(app, exit_code);
  sluice::add_chat(app, exit_code);
  sluice::add_run(app, exit_code);
  sluice::add_info(app, exit_code);
  sluice::add_bench(app, exit_code);
  sluice::add_convert(app, exit_code);
  sluice::add_download(app, exit_code);
  sluice::add_verify(app, exit_code);
  sluice::add_plan(app, exit_code);
  sluice::add_launch(app, exit_code);
  sluice::add_doctor(app, exit_code);
  sluice::add_keep(app, exit_code);
  sluice::add_jobs(app, exit_code);
  sluice::add_connect(app, exit_code);
  sluice::add_route(app, exit_code);
  app.footer("sluice COMMAND --help lists what a command takes.");  // verbs would have inherited it
  std::vector<std::string> arguments;
  if (argc > 0 && sluice::called_as_maritalk(argv[0])) {
    if (const int code = sluice::read_maritalk(argc, argv, arguments); code >= 0) return code;
    std::reverse(arguments.begin(), arguments.end());  // the library takes them from the back
  }
  if (argc > 1 && std::string_view(argv[1]) == "help") {
    arguments = {argv + 2, argv + argc};
    arguments.emplace_back("--help");
    std::reverse(arguments.begin(), arguments.end());
  }
  const std::vector<std::string> words = arguments.empty()
                                             ? std::vector<std::string>(argv + std::min(argc, 1), argv + argc)
                                             : std::vector(arguments.rbegin(), arguments.rend());
  try {
    if (arguments.empty())
      app.parse(argc, argv);
    else
      app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    if (argc < 2 && arguments.empty())
      fmt::print(stderr, "{}", app.help());
    else
      fmt::print(stderr, "{}\n", sluice::usage_error(app, words, error.what()));
    return 2;
  } catch (const sluice::Error& error) {
    fmt::print(stderr, "{}\n", sluice::fitted(fmt::format("sluice: {}", error.what()), STDERR_FILENO));
    return leave(2);
  } catch (const std::exception& error) {
    fmt::print(stderr, "sluice: {} ({})\n", error.what(), sluice::process_name());
    return leave(1);
  }
  return exit_code;
}
