// SPDX-License-Identifier: Apache-2.0
// sluice run MODEL PROMPT: one prompt, one answer; without a prompt at a terminal, a conversation.
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <iterator>

#include "app/address.h"
#include "app/idle_options.h"
#include "app/speaker.h"
#include "app/verb.h"
#include "app/verbs.h"
#include "base/error.h"

namespace sluice {
namespace {

struct RunOptions : SpeakerOptions {
  std::vector<std::string> prompt;
  bool raw = false;
};

// What a pipe brings stands before the words of the command line.
std::string read_prompt(const RunOptions& options) {
  std::string out;
  if (::isatty(STDIN_FILENO) == 0) {
    out.assign(std::istreambuf_iterator<char>(std::cin), {});
    while (!options.raw && !out.empty() && (out.back() == '\n' || out.back() == '\r')) out.pop_back();
  }
  const std::string words = fmt::format("{}", fmt::join(options.prompt, " "));
  if (!out.empty() && !words.empty()) out += options.raw ? "" : "\n";
  return out + words;
}

// A server's temperature is its own where none is asked for; here it is 0.
void refuse_greedy(const RunOptions& options) {
  const Settings& settings = options.settings;
  if (names_server(options.who) && settings.origin("temperature") == "default") return;
  for (const char* name : {"top-k", "top-p"})
    if (is_typed(settings, name) && settings.number("temperature") == 0)
      throw Error(
          fmt::format("--{} {}: at temperature 0 (from {}) the most likely token is taken whatever it says; give "
                      "--temperature too, or leave it out",
                      name, settings.text(name), settings.origin("temperature")));
}

int run(RunOptions& options) {
  if (options.prompt.empty() && ::isatty(STDIN_FILENO) != 0) {
    if (options.raw) throw Error("--raw: expected a prompt, as arguments or on standard input");
    return with_speaker(options, false, run_session);
  }
  if (options.raw && !options.system.empty()) throw Error("--raw sends the prompt alone: --system has no place in it");
  refuse_greedy(options);
  const std::string prompt = read_prompt(options);
  if (prompt.empty()) throw Error("expected a prompt, as arguments or on standard input; found none");
  return with_speaker(options, options.raw,
                      [&](Speaker& speaker, Interrupts& interrupts, const SessionOptions& session) {
                        try {
                          return run_once(speaker, interrupts, session, prompt, options.raw);
                        } catch (const RequestError& error) {
                          throw Error(error.what());
                        }
                      });
}

}  // namespace

void add_run(CLI::App& app, int& exit_code) {
  const auto [verb, options] =
      add_verb<RunOptions>(app, "run", "Answer one prompt; without one, talk.", exit_code, run);
  add_speaker_options(*verb, *options);
  verb->add_option("PROMPT", options->prompt, "The prompt; what a pipe brings is put before it.");
  verb->add_flag("--raw", options->raw, "Send the prompt as it stands, without a chat template.");
}

}  // namespace sluice
