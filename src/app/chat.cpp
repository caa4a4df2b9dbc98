// SPDX-License-Identifier: Apache-2.0
// sluice chat MODEL: a conversation at the terminal, in-process (also under srun --pty) or with a server.
#include <CLI/CLI.hpp>

#include "app/speaker.h"
#include "app/verb.h"
#include "app/verbs.h"

namespace sluice {

void add_chat(CLI::App& app, int& exit_code) {
  const auto [verb, options] =
      add_verb<SpeakerOptions>(app, "chat", "Talk to a model at the terminal.", exit_code,
                               [](SpeakerOptions& given) { return with_speaker(given, false, run_session); });
  add_speaker_options(*verb, *options);
  verb->footer("In a pipe every line is a message, and standard output holds the answers alone.");
}

}  // namespace sluice
