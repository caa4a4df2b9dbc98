// SPDX-License-Identifier: Apache-2.0
#include "control/ranks.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/port.h"

namespace sluice {

TestRun::TestRun(int world) : world_(world) {
  static std::atomic<int> count{0};
  id_ = fmt::format("test-{}-{}", ::getpid(), ++count);
  home = std::filesystem::temp_directory_path() / ("sluice-" + id_);
}

TestRun::~TestRun() {
  std::error_code ignored;
  std::filesystem::remove_all(home, ignored);
}

Launch TestRun::launch(int rank) const {
  Launch launch;
  launch.launcher = Launcher::kOmpi;
  launch.rank = launch.local_rank = rank;
  launch.world = world_;
  launch.local_size = world_;
  launch.run_id = id_;
  return launch;
}

Hello TestRun::hello(int rank) const { return describe_process(launch(rank)); }

ControlOptions TestRun::options() const {
  ControlOptions options;
  options.home = home;
  options.formation_seconds = formation_seconds;
  options.silence_seconds = silence_seconds;
  options.heartbeat_seconds = std::min(1.0, silence_seconds / 5);
  options.exit_seconds = 0;
  return options;
}

int TestRun::first_port() const { return rendezvous_ports(std::nullopt, id_, read_port_limits()).front(); }

std::vector<std::string> TestRun::on_threads(const std::function<void(ControlPlane&)>& body) const {
  std::vector<std::string> errors(static_cast<size_t>(world_));
  std::vector<std::thread> threads;
  for (int r = 0; r < world_; ++r) {
    threads.emplace_back([&, r] {
      try {
        body(*form(r));
      } catch (const std::exception& error) {
        errors[static_cast<size_t>(r)] = error.what();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return errors;
}

pid_t fork_child(const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::alarm(120);
  ::signal(SIGABRT, SIG_DFL);  // not the test framework's report
  int code = 99;
  try {
    code = body();
  } catch (const std::exception& error) {
    fmt::print(stderr, "child {}: {}\n", ::getpid(), error.what());
  }
  ::_exit(code);
}

int wait_child(pid_t pid, double seconds) {
  const double deadline = monotonic_seconds() + seconds;
  int status = 0;
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    if (monotonic_seconds() > deadline) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      return -1;
    }
    ::usleep(2000);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

double cpu_seconds(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  std::istringstream rest(line.substr(line.rfind(')') + 2));
  std::string skip;
  for (int i = 0; i < 11; ++i) rest >> skip;
  long user = 0, system = 0;
  rest >> user >> system;
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

}  // namespace sluice
