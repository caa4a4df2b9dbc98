// SPDX-License-Identifier: Apache-2.0
// sluice chat MODEL: a conversation at the terminal, in-process, with or without Slurm (srun --pty).
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <mutex>

#include "app/options.h"
#include "app/verbs.h"
#include "app/world.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/signals.h"

namespace sluice {
namespace {

struct ChatOptions {
  Settings settings = make_settings({Topic::kModel, Topic::kRun, Topic::kSampling});
  std::string model, system;
};

// Prints one answer as it comes and keeps it for the conversation.
class TerminalSink : public Sink {
 public:
  void on_delta(const Delta& delta) override {
    std::fwrite(delta.text.data(), 1, delta.text.size(), stdout);
    std::fflush(stdout);
    const std::lock_guard lock(mutex_);
    text_ += delta.text;
  }
  void on_done(const Usage&) override { end({}); }
  void on_error(std::string_view message) override { end(std::string(message)); }
  // The answer so far; waits for its end, or for `interrupted`.
  std::string wait(const std::atomic<bool>& interrupted, std::string& error) {
    std::unique_lock lock(mutex_);
    while (!ended_ && !interrupted) changed_.wait_for(lock, std::chrono::milliseconds(50));
    error = error_;
    return text_;
  }

 private:
  void end(std::string error) {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    error_ = std::move(error);
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_, error_;
  bool ended_ = false;
};

// Lines of standard input, so that a signal can end the wait. Owned by one thread.
class LineReader {
 public:
  explicit LineReader(int wake) : wake_(wake) {}
  enum class Outcome { kLine, kEnd, kInterrupted };
  Outcome read(std::string& line) {
    for (;;) {
      if (const size_t at = pending_.find('\n'); at != std::string::npos) {
        line = pending_.substr(0, at);
        pending_.erase(0, at + 1);
        if (!line.empty() && line.back() == '\r') line.pop_back();
        return Outcome::kLine;
      }
      if (ended_) {
        if (pending_.empty()) return Outcome::kEnd;
        line = std::exchange(pending_, {});
        return Outcome::kLine;
      }
      pollfd wait[2] = {{STDIN_FILENO, POLLIN, 0}, {wake_, POLLIN, 0}};
      if (::poll(wait, 2, -1) < 0) continue;
      if (wait[1].revents != 0) {
        uint64_t count;
        if (::read(wake_, &count, sizeof count) > 0) return Outcome::kInterrupted;
      }
      if (wait[0].revents == 0) continue;
      char bytes[4096];
      const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (n <= 0) {
        ended_ = true;
      } else {
        pending_.append(bytes, static_cast<size_t>(n));
      }
    }
  }

 private:
  int wake_;
  bool ended_ = false;
  std::string pending_;
};

constexpr const char* kHelp =
    "  /system TEXT   set the system prompt and begin anew\n"
    "  /reset         begin anew\n"
    "  /help          this list\n"
    "  /bye           leave (Ctrl-D too); Ctrl-C stops an answer\n";

class Conversation {
 public:
  Conversation(Engine& engine, const ChatTemplate& chat, const GenerateRequest& defaults, std::string system)
      : engine_(engine), chat_(chat), defaults_(defaults), system_(std::move(system)) {
    reset();
  }

  void reset() {
    messages_.clear();
    if (!system_.empty()) add("system", system_);
  }
  void set_system(std::string text) {
    system_ = std::move(text);
    reset();
  }
  // Streams the answer to `text`; an interrupted answer stays in the conversation as far as it came.
  void ask(const std::string& text, std::atomic<bool>& interrupted) {
    add("user", text);
    try {
      ChatInput input;
      input.messages = Value(messages_);
      GenerateRequest request = defaults_;
      request.prompt = engine_.tokenizer().encode(chat_.render(input), false);
      const RunLimits& limits = engine_.info().limits;
      const int64_t room =
          limits.max_context - (limits.max_encoder > 0 ? 1 : static_cast<int64_t>(request.prompt.size()));
      request.max_new_tokens = static_cast<int32_t>(std::clamp<int64_t>(room, 1, request.max_new_tokens));
      interrupted = false;
      const auto sink = std::make_shared<TerminalSink>();
      const uint64_t id = engine_.submit(std::move(request), sink);
      std::string error;
      const std::string answer = sink->wait(interrupted, error);
      if (interrupted) engine_.cancel(id);
      fmt::print("{}\n", interrupted ? " [stopped]" : "");
      if (!error.empty()) throw RequestError(RequestError::Kind::kGeneration, error);
      add("assistant", answer);
    } catch (const RequestError& error) {
      messages_.pop_back();
      fmt::print("[{}]\n", error.what());
    }
  }

 private:
  void add(const char* role, const std::string& content) {
    Dict message;
    message.set("role", role);
    message.set("content", content);
    messages_.push_back(Value(message));
  }
  Engine& engine_;
  const ChatTemplate& chat_;
  const GenerateRequest& defaults_;
  std::string system_;
  List messages_;
};

int talk(Engine& engine, const ChatTemplate& chat, const GenerateRequest& defaults, const std::string& system) {
  const int wake = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::atomic<bool> interrupted{false}, leaving{false};
  const SignalWatch watch([&](int signal, int) {
    interrupted = true;
    if (signal == SIGTERM) leaving = true;
    const uint64_t one = 1;
    if (::write(wake, &one, sizeof one) < 0) leaving = true;
  });
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  LineReader reader(wake);
  Conversation conversation(engine, chat, defaults, system);
  if (terminal) fmt::print("Type a message; /help lists the commands.\n");
  std::string line;
  bool asked_to_leave = false;
  while (!leaving) {
    if (terminal) fmt::print("> ");
    std::fflush(stdout);
    const auto outcome = reader.read(line);
    if (outcome == LineReader::Outcome::kEnd) break;
    if (outcome == LineReader::Outcome::kInterrupted) {
      fmt::print("\n");
      if (std::exchange(asked_to_leave, true)) break;
      fmt::print("Ctrl-C again, or /bye, to leave.\n");
      continue;
    }
    asked_to_leave = false;
    if (line.empty()) continue;
    if (line == "/bye" || line == "/exit" || line == "/quit") break;
    if (line == "/reset") {
      conversation.reset();
    } else if (line == "/help") {
      fmt::print("{}", kHelp);
    } else if (line.rfind("/system ", 0) == 0) {
      conversation.set_system(line.substr(8));
    } else if (line[0] == '/') {
      fmt::print("{} is no command:\n{}", line, kHelp);
    } else {
      conversation.ask(line, interrupted);
      uint64_t count;
      while (::read(wake, &count, sizeof count) > 0) {
      }
    }
  }
  ::close(wake);
  return 0;
}

int run(ChatOptions& options) {
  Settings& settings = options.settings;
  if (!options.model.empty()) settings.set("model", options.model, "argument");
  if (settings.origin("log-level") == "default") settings.set("log-level", "warning", "chat");
  if (settings.origin("max-batch-size") == "default") settings.set("max-batch-size", "1", "chat");
  set_log_level(parse_log_level(settings.text("log-level")));
  check_unsupported(settings);
  const GenerateRequest defaults = default_request(settings);
  const ServedModel model = read_served_model(settings);
  if (model.chat == nullptr)
    throw Error(fmt::format(
        "{} has no chat template; give one with --chat-template FILE or a name such as chatml, or use sluice generate",
        model.name));
  World world(settings, model, [](const std::string&) {});
  return with_world(world, [&] {
    if (!world.leader()) return world.work();
    int code = 0;
    {
      EngineOptions engine_options;
      engine_options.token_budget = settings.integer("max-batch-prefill-tokens", 1, 1 << 20);
      engine_options.max_batch = settings.integer("max-batch-size", 1, 1 << 16);
      engine_options.prefix_cache = settings.flag("prefix-cache");
      engine_options.broadcast = world.broadcast();
      Engine engine(
          engine_options, [&world] { return world.make_executor(); }, *model.tokenizer);
      world.all_loaded();
      code = talk(engine, *model.chat, defaults, options.system);
    }
    world.leave();
    return code;
  });
}

}  // namespace

void add_chat(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* verb = app.add_subcommand("chat", "Talk to a model at the terminal.");
  verb->add_option("MODEL", options->model, "Checkpoint folder.");
  verb->add_option("--system", options->system, "System prompt.");
  add_flags(*verb, options->settings);
  verb->callback([options, &exit_code] { exit_code = run(*options); });
}

}  // namespace sluice
