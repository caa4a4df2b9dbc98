// SPDX-License-Identifier: Apache-2.0
// A conversation at the terminal or in a pipe: messages, commands, answers as they come.
#pragma once

#include <filesystem>
#include <string>

#include "chat/interrupts.h"
#include "chat/speaker.h"

namespace sluice {

struct SessionOptions {
  std::string system;             // system prompt, may be empty
  ChatParameters parameters;      // to begin with
  bool verbose = false;           // figures after every answer
  std::filesystem::path history;  // file of what was typed; empty: none is kept
};

// Until /bye, the end of the input, or TERM. At a terminal it edits lines and shows prompts; in a pipe every line is a
// message and standard output holds the answers alone. Returns the exit code: 1 where a message of a pipe failed.
int run_session(Speaker& speaker, Interrupts& interrupts, const SessionOptions& options);

// One prompt, one answer on standard output; figures on standard error. `raw`: without a chat template. Exit code 130
// when interrupted.
int run_once(Speaker& speaker, Interrupts& interrupts, const SessionOptions& options, const std::string& prompt,
             bool raw);

}  // namespace sluice
