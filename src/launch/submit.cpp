// SPDX-License-Identifier: Apache-2.0
#include "launch/submit.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace sluice {
namespace {
constexpr double kSbatchSeconds = 60, kAskSeconds = 15;
constexpr std::string_view kLettersAlone = "HOQWhksuvV";  // sbatch's short options that take no value behind a blank

// True for "-w" and "-Hw": the value of the last letter is the next word.
bool wants_next_word(std::string_view letters) {
  for (size_t i = 1; i < letters.size(); ++i)
    if (kLettersAlone.find(letters[i]) == kLettersAlone.npos) return i + 1 == letters.size();
  return false;
}

std::string one_line(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  for (size_t at = 0; (at = text.find('\n', at)) != text.npos;) text.replace(at, 1, "; ");
  return text;
}
}  // namespace

std::optional<CommandResult> run_with_errors(const CommandRunner& run, const std::vector<std::string>& arguments,
                                             double deadline) {
  std::vector<std::string> command = {"sh", "-c", "exec \"$@\" 2>&1", "sh"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run(command, deadline);
}

std::vector<std::string> sbatch_words(const std::vector<std::string>& typed) {
  std::vector<std::string> out;
  for (size_t i = 0; i < typed.size(); ++i) {
    std::string word = typed[i];
    if (!word.starts_with('-') || word == "-" || word == "--") {
      throw Error(
          fmt::format("'{}' is not an option of sbatch; behind -- expected options such as --qos=high or -w n1", word));
    }
    const bool is_long = word.starts_with("--"), more = i + 1 < typed.size();
    if (is_long && word.find('=') == word.npos && more && !typed[i + 1].starts_with('-')) word += "=" + typed[++i];
    if (!is_long && wants_next_word(word)) {
      if (!more) throw Error(fmt::format("'{}' lacks its value; expected one more word behind it", word));
      word += typed[++i];
    }
    out.push_back(std::move(word));
  }
  return out;
}

std::string submitted_id(std::string_view output) {
  std::string id;
  for (size_t at = 0; at < output.size();) {
    const size_t end = std::min(output.find('\n', at), output.size());
    const std::string_view line = output.substr(at, end - at);
    const std::string_view head = line.substr(0, line.find(';'));
    if (!head.empty() && std::all_of(head.begin(), head.end(), [](char c) { return c >= '0' && c <= '9'; })) id = head;
    at = end + 1;
  }
  return id;
}

std::string submit_script(const CommandRunner& run, const std::string& script,
                          const std::vector<std::string>& options) {
  std::vector<std::string> command = {"sbatch", "--parsable"};
  command.insert(command.end(), options.begin(), options.end());
  command.push_back(script);
  const auto said = run_with_errors(run, command, kSbatchSeconds);
  if (!said) throw Error(fmt::format("sbatch did not answer within {:.0f} s", kSbatchSeconds));
  if (said->exit_code == 127) throw Error("there is no sbatch here; run this on a login node of the cluster");
  if (said->exit_code != 0) throw Error(fmt::format("sbatch refuses: {}", one_line(said->output)));
  std::string id = submitted_id(said->output);
  if (id.empty()) throw Error(fmt::format("sbatch answered without a job id: {}", one_line(said->output)));
  return id;
}

std::string scontrol_value(std::string_view output, std::string_view key) {
  const std::string wanted = fmt::format("{}=", key);
  for (size_t at = 0; (at = output.find(wanted, at)) != output.npos; ++at) {
    if (at > 0 && output[at - 1] != ' ' && output[at - 1] != '\n') continue;
    const size_t begin = at + wanted.size();
    return std::string(output.substr(begin, std::min(output.find_first_of(" \n", begin), output.size()) - begin));
  }
  return {};
}

std::string job_ending(const CommandRunner& run, const std::string& job) {
  std::string state, code;
  if (const auto said = run({"scontrol", "-o", "show", "job", job}, kAskSeconds); said && said->exit_code == 0) {
    state = scontrol_value(said->output, "JobState");
    code = scontrol_value(said->output, "ExitCode");
  } else if (const auto kept = run({"sacct", "-n", "-X", "-P", "-j", job, "-o", "State,ExitCode"}, kAskSeconds);
             kept && kept->exit_code == 0) {
    const std::string line = kept->output.substr(0, kept->output.find('\n'));
    state = line.substr(0, line.find('|'));
    if (line.find('|') != line.npos) code = line.substr(line.find('|') + 1);
  }
  if (state.empty()) return {};
  if (code.empty() || code == "0:0") return state;
  const std::string exit = code.substr(0, code.find(':')),
                    signal = code.substr(std::min(code.find(':') + 1, code.size()));
  return exit != "0" ? fmt::format("{}, exit code {}", state, exit) : fmt::format("{}, signal {}", state, signal);
}

}  // namespace sluice
