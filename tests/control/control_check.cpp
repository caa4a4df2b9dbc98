// SPDX-License-Identifier: Apache-2.0
// One rank of a real launch, for tests under mpirun and srun: control_check MODE [SECONDS]
//   form  forms, exchanges, sends a hundred messages, leaves; prints who is there
//   wait  forms, then waits for the run to be lost, at most SECONDS; prints the reason and exits with 7
//   skip  as form, but the last rank never comes
// SLUICE_FORMATION_SECONDS shortens the deadline.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "base/error.h"
#include "cluster/endpoint.h"
#include "control/control.h"

using namespace sluice;

namespace {

// One write, so that the lines of several ranks do not mix.
void say(const std::string& line) {
  const std::string text = line + "\n";
  check(::write(STDOUT_FILENO, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "printing failed");
}

void exchange_and_send(ControlPlane& plane) {
  const auto names = plane.all_gather("names", fmt::format("name {}", plane.rank()), 20);
  for (int r = 0; r < plane.size(); ++r)
    check(names[static_cast<size_t>(r)] == fmt::format("name {}", r), "an exchange came back wrong");
  std::vector<std::byte> message;
  for (int i = 0; i < 100; ++i) {
    const std::vector<std::byte> expected(static_cast<size_t>(1000 + i), static_cast<std::byte>(i));
    if (plane.rank() == 0)
      plane.broadcast(expected);
    else
      check(plane.next(message) && message == expected, "a message came wrong");
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string mode = argc > 1 ? argv[1] : "form";
  const double seconds = argc > 2 ? std::atof(argv[2]) : 30;
  const Launch launch = read_launch(process_environment());
  if (mode == "skip" && launch.rank + 1 == launch.world) {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    return 0;
  }
  ControlOptions options;
  options.home = sluice_home(process_environment());
  if (const char* given = std::getenv("SLUICE_FORMATION_SECONDS")) options.formation_seconds = std::atof(given);
  if (const char* given = std::getenv("SLUICE_RENDEZVOUS")) options.rendezvous = given;
  options.on_lost = [&](const std::string& reason) {
    say(fmt::format("rank {} lost: {}", launch.rank, reason));
    ::_exit(7);
  };
  auto plane = ControlPlane::form(options, launch, describe_process(launch));
  exchange_and_send(*plane);
  std::string hosts;
  for (const Hello& hello : plane->hellos()) hosts += " " + hello.place.host;
  say(fmt::format("rank {} formed: pid {}, hosts{}", launch.rank, ::getpid(), hosts));
  if (mode == "wait") std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  plane->leave();
  return plane->lost() ? 1 : 0;
} catch (const Error& error) {
  fmt::print(stderr, "control_check: {}\n", error.what());
  if (std::getenv("SLURM_STEP_ID") != nullptr) ::usleep(300000);  // srun may drop the last words of a task that fails
  return 2;
}
