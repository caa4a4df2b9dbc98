// SPDX-License-Identifier: Apache-2.0
#include "chat/session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>

#include "base/error.h"
#include "base/terminal.h"
#include "chat/conversation.h"
#include "chat/line_source.h"

namespace sluice {
namespace {

// Throws Error where nobody takes the answer: a full disk, a reader of the pipe that has gone.
void write_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw Error(fmt::format("the answer cannot be written: {}", std::strerror(errno)));
}

std::string figures(const Said& said) {
  const double rest = said.seconds - said.first_seconds;
  std::string out;
  if (said.prompt_tokens > 0) out = fmt::format("{} tokens asked, ", said.prompt_tokens);
  out +=
      fmt::format("{} answered in {:.2f} s, the first after {:.2f} s", said.tokens, said.seconds, said.first_seconds);
  if (said.tokens > 1 && rest > 0) out += fmt::format(", {:.1f} tokens/s", static_cast<double>(said.tokens - 1) / rest);
  return out;
}

std::filesystem::path path_of(const std::string& text) {
  const char* home = std::getenv("HOME");
  if (home != nullptr && (text == "~" || text.starts_with("~/"))) return home + text.substr(1);
  return text;
}

class Session {
 public:
  Session(Speaker& speaker, Interrupts& interrupts, const SessionOptions& options)
      : speaker_(speaker), interrupts_(interrupts), parameters_(options.parameters), verbose_(options.verbose) {
    conversation_.set_system(options.system);
    terminal_ = ::isatty(STDIN_FILENO) != 0;
    able_ = is_able_terminal();
    dim_ = able_ && std::getenv("NO_COLOR") == nullptr;
    lines_ =
        able_ ? edited_lines(interrupts.wake(), options.history, words()) : plain_lines(interrupts.wake(), terminal_);
  }

  int run() {
    if (terminal_) hint(fmt::format("{}. Type a message; /help lists the commands.", speaker_.name()));
    bool asked_to_leave = false;
    std::string line;
    while (!interrupts_.leaving() && !done_) {
      const auto outcome = message(line);
      if (outcome == LineSource::Outcome::kEnd) break;
      if (outcome == LineSource::Outcome::kInterrupted) {
        interrupts_.clear();
        if (interrupts_.leaving() || std::exchange(asked_to_leave, true)) break;
        hint("Ctrl-C again, Ctrl-D or /bye to leave.");
        continue;
      }
      asked_to_leave = false;
      if (line.find_first_not_of(" \t\r\n") == std::string::npos) continue;
      lines_->remember(line);
      try {
        if (!command(line)) ask(line);
      } catch (const RequestError& error) {
        complain(error.what());
        if (terminal_ && conversation_.said() > 0) hint("/reset begins anew, /undo takes the last question back");
      } catch (const Error& error) {
        complain(error.what());
      }
    }
    return failed_ ? 1 : 0;
  }

 private:
  struct Command {
    const char* name;
    const char* others;  // other programs' names for it, each between spaces
    const char* help;
    void (Session::*run)(const std::string& rest);
  };
  static const std::vector<Command>& commands() {
    static const std::vector<Command> all = {
        {"/set", "", "NAME VALUE: a parameter (/set alone lists them), or verbose, quiet", &Session::set},
        {"/unset", "", "NAME: take a parameter back", &Session::unset},
        {"/system", "", "TEXT: set the system prompt and begin anew; alone: show it", &Session::system},
        {"/reset", " /clear !!reset ", "begin anew", &Session::reset},
        {"/retry", " !!regen ", "another answer to the last message", &Session::retry},
        {"/undo", " !!remove ", "take back the last message and its answer", &Session::undo},
        {"/save", " !!save ", "FILE: keep the conversation", &Session::save},
        {"/load", " !!load ", "FILE: go on with a kept one", &Session::load},
        {"/stats", "", "figures of the last answer and of the conversation", &Session::stats},
        {"/show", "", "model, system prompt, parameters", &Session::show},
        {"/help", " /? ", "this list", &Session::help},
        {"/bye", " /exit /quit !!exit ", "leave (Ctrl-D too)", &Session::bye},
    };
    return all;
  }
  static std::vector<std::string> words() {
    std::vector<std::string> out;
    for (const Command& command : commands()) out.emplace_back(command.name);
    for (const std::string& name : ChatParameters::names()) out.push_back("/set " + name);
    return out;
  }

  // One line, or all between two """.
  LineSource::Outcome message(std::string& text) {
    constexpr std::string_view kQuotes = "\"\"\"";
    auto outcome = lines_->read(">>> ", text);
    if (outcome != LineSource::Outcome::kLine || !text.starts_with(kQuotes)) return outcome;
    text.erase(0, kQuotes.size());
    while (!text.ends_with(kQuotes)) {
      std::string more;
      outcome = lines_->read("... ", more);
      if (outcome == LineSource::Outcome::kInterrupted) return outcome;
      if (outcome == LineSource::Outcome::kEnd) return LineSource::Outcome::kLine;  // a pipe may forget the end
      text += (text.empty() ? "" : "\n") + more;
    }
    text.resize(text.size() - kQuotes.size());
    if (text.ends_with('\n')) text.pop_back();
    return outcome;
  }

  // False when the line is a message. A path is one, too: its first word has a second slash.
  bool command(const std::string& line) {
    if (!line.starts_with('/') && !line.starts_with("!!")) return false;
    const size_t end = line.find_first_of(" \t\n");
    const std::string word = line.substr(0, end);
    if (word.find('/', 1) != std::string::npos) return false;
    size_t begin = end == std::string::npos ? line.size() : line.find_first_not_of(" \t", end);
    std::string rest = begin >= line.size() ? std::string() : line.substr(begin);
    while (!rest.empty() && (rest.back() == ' ' || rest.back() == '\t')) rest.pop_back();
    for (const Command& known : commands()) {
      if (word != known.name && std::string(known.others).find(" " + word + " ") == std::string::npos) continue;
      (this->*known.run)(rest);
      return true;
    }
    throw Error(fmt::format("{} is no command; /help lists them", word));
  }

  // An interrupted answer stays in the conversation as far as it came; a failed question does not.
  void ask(const std::string& question) {
    conversation_.add("user", question);
    interrupts_.clear();
    bool begun = false;
    const auto show = [&](std::string_view text) {
      begun = true;
      write_out(text);
    };
    try {
      Said said = speaker_.chat(conversation_.messages(), parameters_, show, interrupts_.stop());
      write_out(said.stopped ? " [stopped]\n" : "\n");
      if (said.cut && terminal_) hint("[cut at the limit of tokens; /set max_tokens N raises it]");
      conversation_.add("assistant", said.text);
      last_ = said;
      ++answers_;
      prompt_tokens_ += said.prompt_tokens;
      tokens_ += said.tokens;
      seconds_ += said.seconds;
      if (verbose_) note(figures(said));
    } catch (...) {
      conversation_.drop_last();
      done_ = std::ferror(stdout) != 0;
      if (begun && !done_) write_out("\n");
      throw;
    }
    interrupts_.clear();
  }

  void set(const std::string& rest) {
    std::string name = rest.substr(0, rest.find(' '));
    std::string value = name.size() < rest.size() ? rest.substr(name.size() + 1) : std::string();
    if (name == "parameter") return set(value);  // as Ollama has it
    if (name == "system") return system(value);
    if (name.empty()) {
      note(parameters_.text() + fmt::format("  there are {}", fmt::join(ChatParameters::names(), ", ")));
    } else if (name == "verbose" || name == "quiet") {
      verbose_ = name == "verbose";
    } else if (value.empty()) {
      throw Error(fmt::format("/set {}: expected a value", name));
    } else {
      parameters_.set(name, value);
    }
  }
  void unset(const std::string& name) { parameters_.unset(name); }
  void system(const std::string& text) {
    if (text.empty()) return note(conversation_.system().empty() ? "no system prompt" : conversation_.system());
    conversation_.set_system(text);
  }
  void reset(const std::string&) {
    conversation_.reset();
    if (terminal_) hint("begun anew");
  }
  void retry(const std::string&) {
    const std::string question = conversation_.undo();
    if (question.empty()) throw Error("/retry: nothing was asked yet");
    ask(question);
  }
  void undo(const std::string&) {
    const std::string question = conversation_.undo();
    if (question.empty()) throw Error("/undo: nothing was asked yet");
    note("taken back: " + question);
  }
  void save(const std::string& file) {
    if (file.empty()) throw Error("/save: expected a file");
    conversation_.save(path_of(file), speaker_.name());
    note(fmt::format("{} messages are in {}", conversation_.messages().size(), file));
  }
  void load(const std::string& file) {
    if (file.empty()) throw Error("/load: expected a file");
    conversation_.load(path_of(file));
    note(fmt::format("{} messages from {}", conversation_.messages().size(), file));
  }
  void stats(const std::string&) {
    if (answers_ == 0) return note("no answer yet");
    note(fmt::format("last    {}\nin all  {} messages, {} answer{}: {} tokens asked, {} answered in {:.2f} s",
                     figures(last_), conversation_.messages().size(), answers_, answers_ == 1 ? "" : "s",
                     prompt_tokens_, tokens_, seconds_));
  }
  void show(const std::string&) {
    note(fmt::format("model    {}\nsystem   {}\n{}", speaker_.name(), conversation_.system(), parameters_.text()));
  }
  void help(const std::string&) {
    std::string out;
    for (const Command& command : commands()) out += fmt::format("  {:<9}{}\n", command.name, command.help);
    out += "  \"\"\"      begins and ends a message of several lines\n";
    if (able_) out += "  keys     Alt-Enter breaks a line, Tab completes, Ctrl-R searches the history\n";
    note(out + "  Ctrl-C   stops an answer; twice at the prompt leaves");
  }
  void bye(const std::string&) { done_ = true; }

  // Words that are no answer: in a pipe they go to standard error.
  void note(const std::string& text, bool dim = false) const {
    std::FILE* to = terminal_ ? stdout : stderr;
    const std::string fits = fitted(text, ::fileno(to));
    fmt::print(to, "{}{}{}{}", dim ? "\033[2m" : "", fits, dim ? "\033[0m" : "", fits.ends_with('\n') ? "" : "\n");
    std::fflush(to);
  }
  void hint(const std::string& text) const { note(text, dim_); }
  void complain(const char* what) {
    failed_ = failed_ || !terminal_;
    note(terminal_ ? fmt::format("[{}]", what) : fmt::format("sluice: {}", what));
  }

  Speaker& speaker_;
  Interrupts& interrupts_;
  ChatParameters parameters_;
  Conversation conversation_;
  std::unique_ptr<LineSource> lines_;
  bool verbose_ = false, terminal_ = false, able_ = false, dim_ = false, done_ = false, failed_ = false;
  Said last_;
  int64_t answers_ = 0, prompt_tokens_ = 0, tokens_ = 0;
  double seconds_ = 0;
};

}  // namespace

int run_session(Speaker& speaker, Interrupts& interrupts, const SessionOptions& options) {
  interrupts.ready();
  return Session(speaker, interrupts, options).run();
}

int run_once(Speaker& speaker, Interrupts& interrupts, const SessionOptions& options, const std::string& prompt,
             bool raw) {
  interrupts.ready();
  Said said;
  if (raw) {
    said = speaker.complete(prompt, options.parameters, write_out, interrupts.stop());
  } else {
    Conversation conversation;
    conversation.set_system(options.system);
    conversation.add("user", prompt);
    said = speaker.chat(conversation.messages(), options.parameters, write_out, interrupts.stop());
  }
  write_out("\n");
  if (options.verbose) fmt::print(stderr, "{}\n", figures(said));
  return said.stopped ? 130 : 0;
}

}  // namespace sluice
