// SPDX-License-Identifier: Apache-2.0
// sluice chat MODEL: a conversation at the terminal, in-process (also under srun --pty) or with a server.
#include <CLI/CLI.hpp>

#include "app/speaker.h"
#include "app/verbs.h"

namespace sluice {

void add_chat(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<SpeakerOptions>();
  CLI::App* verb = app.add_subcommand("chat", "Talk to a model at the terminal.");
  add_speaker_options(*verb, *options);
  verb->footer("In a pipe every line is a message, and standard output holds the answers alone.");
  verb->callback([options, &exit_code] { exit_code = with_speaker(*options, false, run_session); });
}

}  // namespace sluice
