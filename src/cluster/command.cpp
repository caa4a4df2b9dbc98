// SPDX-License-Identifier: Apache-2.0
#include "cluster/command.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/launch.h"

namespace sluice {
namespace {

constexpr size_t kMostOutput = 1 << 20;

// The environment without what would make the child think it is a rank.
std::vector<char*> child_environment() {
  std::vector<char*> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const char* end = std::strchr(*entry, '=');
    if (end != nullptr && is_launcher_variable({*entry, static_cast<size_t>(end - *entry)})) continue;
    kept.push_back(*entry);
  }
  kept.push_back(nullptr);
  return kept;
}

pid_t spawn(const std::vector<std::string>& arguments, int out) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> envp = child_environment();

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGPIPE}) sigaddset(&defaults, signal);
  posix_spawnattr_setsigmask(&attributes, &none);  // block_signals() would otherwise make the child deaf to TERM
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, argv[0], &files, &attributes, argv.data(), envp.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return error == 0 ? pid : -1;
}

}  // namespace

std::optional<CommandResult> run_command(const std::vector<std::string>& arguments, double deadline) {
  check(!arguments.empty(), "a command needs a name");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return std::nullopt;
  const pid_t pid = spawn(arguments, ends[1]);
  ::close(ends[1]);
  if (pid < 0) {
    ::close(ends[0]);
    return std::nullopt;
  }

  CommandResult result;
  const double end = monotonic_seconds() + deadline;
  bool in_time = true;
  for (;;) {  // until the child closes its output
    const double left = end - monotonic_seconds();
    pollfd ready{ends[0], POLLIN, 0};
    const int events = left > 0 ? ::poll(&ready, 1, static_cast<int>(left * 1000) + 1) : 0;
    if (events < 0 && errno == EINTR) continue;
    if (events <= 0) {
      in_time = false;
      break;
    }
    char chunk[4096];
    const ssize_t n = ::read(ends[0], chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    if (result.output.size() < kMostOutput)
      result.output.append(chunk, std::min(static_cast<size_t>(n), kMostOutput - result.output.size()));
  }
  ::close(ends[0]);

  int status = 0;
  if (!in_time) ::kill(pid, SIGKILL);
  for (;;) {  // a child may close its output and live on
    const pid_t reaped = ::waitpid(pid, &status, in_time ? WNOHANG : 0);
    if (reaped == pid) break;
    if (reaped < 0 && errno != EINTR) return std::nullopt;
    if (!in_time) continue;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    in_time = monotonic_seconds() < end;
    if (!in_time) ::kill(pid, SIGKILL);
  }
  if (!in_time) return std::nullopt;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace sluice
