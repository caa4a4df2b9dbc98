// SPDX-License-Identifier: Apache-2.0
#include "app/speaker.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>

#include "app/address.h"
#include "app/idle_options.h"
#include "app/verbs.h"
#include "app/world.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "chat/line_source.h"
#include "cluster/endpoint.h"
#include "cluster/signals.h"

namespace sluice {
namespace {

// Parameters that were asked for; those left at their defaults stay the model's or the server's own.
ChatParameters asked_parameters(const SpeakerOptions& options) {
  ChatParameters out;
  for (const auto& [name, setting] : {std::pair{"temperature", "temperature"},
                                      {"top_k", "top-k"},
                                      {"top_p", "top-p"},
                                      {"repetition_penalty", "repetition-penalty"},
                                      {"max_tokens", "max-new-tokens"},
                                      {"seed", "seed"}}) {
    if (options.settings.has(setting) && options.settings.origin(setting) != "default")
      out.set(name, options.settings.text(setting));
  }
  if (!options.format.empty()) out.set("format", options.format);
  for (const std::string& text : options.stop) out.set("stop", text);
  return out;
}

std::filesystem::path history_file() {
  try {
    const std::filesystem::path home = sluice_home(process_environment());
    make_private_folder(home);
    return home / "chat_history";
  } catch (const std::exception&) {  // no home: no history
    return {};
  }
}

int talk_to_server(const SpeakerOptions& options, const SessionOptions& session,
                   const std::function<int(Speaker&, Interrupts&, const SessionOptions&)>& talk) {
  const Settings& settings = options.settings;
  refuse_local_options(settings, options.who);
  set_start_stage("connecting to " + options.who);
  Interrupts interrupts;
  ServerFinder finder(options.who, options.key_file, options.via);
  const auto speaker = remote_speaker(
      [&] {
        ServerAddress out;
        out.url = finder.find(out.key);
        return out;
      },
      settings.origin("model") == "--model" ? settings.text("model") : std::string());
  return talk(*speaker, interrupts, session);
}

int talk_here(Settings& settings, const SessionOptions& session, bool raw,
              const std::function<int(Speaker&, Interrupts&, const SessionOptions&)>& talk) {
  if (settings.origin("max-batch-size") == "default") settings.set("max-batch-size", "1", "chat");
  check_settings(settings);
  std::optional<StartWatch> start_watch(kExitAgain);
  const GenerateRequest defaults = default_request(settings);
  const ServedModel model = read_served_model(settings);
  if (model.chat == nullptr && !raw)
    throw Error(
        fmt::format("{} has no chat template; give one with --chat-template FILE or a name such as chatml, or "
                    "send prompts as they stand: sluice run --raw, sluice generate",
                    model.name));
  std::optional<Interrupts> interrupts;  // other ranks end when this one does
  if (read_launch(process_environment()).rank == 0) {
    start_watch.reset();
    interrupts.emplace();
  }
  World world(settings, model, [](const std::string&) {});
  return with_world(world, [&] {
    if (!world.leader()) return world.work();
    int code = 0;
    {
      const bool watched = is_able_terminal() && ::isatty(STDERR_FILENO) != 0;
      if (watched) fmt::print(stderr, "loading {} ...", model.name);
      EngineOptions engine_options;
      engine_options.token_budget = settings.integer("max-batch-prefill-tokens");
      engine_options.max_batch = settings.integer("max-batch-size");
      engine_options.prefix_cache = settings.flag("prefix-cache");
      engine_options.broadcast = world.broadcast();
      Engine engine(
          engine_options, [&world] { return world.make_executor(); }, *model.tokenizer);
      world.all_loaded();
      if (watched) fmt::print(stderr, "\r\033[K");
      code = talk(*local_speaker(model.name, engine, model.chat.get(), defaults), *interrupts, session);
    }
    world.leave();
    return code;
  });
}

}  // namespace

void add_speaker_options(CLI::App& verb, SpeakerOptions& options) {
  verb.add_option("MODEL", options.who,
                  "Checkpoint folder or downloaded name; or a server: its URL, a job id, or a service's name.");
  verb.add_option("--system", options.system, "System prompt.");
  verb.add_option("--format", options.format, "Answers in JSON: json, or a file with a JSON schema.");
  verb.add_option("--stop", options.stop, "Text that ends an answer; may be given several times.")
      ->allow_extra_args(false);
  verb.add_flag("--verbose", options.verbose, "Figures after every answer.");
  verb.add_option("--key-file", options.key_file,
                  "A server's key; default: that of your own job there, else OPENAI_API_KEY.")
      ->check(CLI::ExistingFile);
  verb.add_option("--via", options.via, "Host to tunnel through with ssh to a job's node.");
  add_flags(verb, options.settings);
}

int with_speaker(SpeakerOptions& options, bool raw,
                 const std::function<int(Speaker&, Interrupts&, const SessionOptions&)>& talk) {
  Settings& settings = options.settings;
  if (settings.origin("log-level") == "default") settings.set("log-level", "warning", "chat");
  set_log_level(parse_log_level(settings.word("log-level")));
  SessionOptions session;
  session.system = options.system;
  session.parameters = asked_parameters(options);
  session.verbose = options.verbose;
  session.history = history_file();
  if (names_server(options.who)) return talk_to_server(options, session, talk);
  if (!options.key_file.empty() || !options.via.empty())
    throw Error(fmt::format("--key-file and --via concern a server; {} is no URL, job id or service",
                            options.who.empty() ? "no MODEL" : options.who));
  if (!options.who.empty()) set_model(settings, options.who);
  return talk_here(settings, session, raw, talk);
}

}  // namespace sluice
