// SPDX-License-Identifier: Apache-2.0
// One-way latency of a broadcast over loopback between processes of this machine: from broadcast() on rank 0 to the
// return of next() on each other rank. control_latency [ranks] [bytes] [messages]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "control/ranks.h"

using namespace sluice;

int main(int argc, char** argv) {
  const int world = argc > 1 ? std::atoi(argv[1]) : 2;
  const size_t bytes = std::max<size_t>(8, argc > 2 ? static_cast<size_t>(std::atoi(argv[2])) : 2048);
  const int messages = argc > 3 ? std::atoi(argv[3]) : 2000;
  TestRun run(world);
  std::vector<pid_t> children;
  for (int r = 0; r < world; ++r) {
    children.push_back(fork_child([&, r] {
      auto plane = run.form(r);
      std::vector<std::byte> message(bytes);
      std::vector<double> latency;
      double spent = 0;
      if (r == 0) {
        for (int i = 0; i < messages; ++i) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          const double now = monotonic_seconds();
          std::memcpy(message.data(), &now, sizeof now);
          plane->broadcast(message);
          spent += monotonic_seconds() - now;
        }
      } else {
        while (plane->next(message)) {
          double sent;
          std::memcpy(&sent, message.data(), sizeof sent);
          latency.push_back((monotonic_seconds() - sent) * 1e6);
        }
        std::sort(latency.begin(), latency.end());
        const auto at = [&](double q) {
          return latency[static_cast<size_t>(q * static_cast<double>(latency.size() - 1))];
        };
        fmt::print("rank {}: {} messages of {} bytes, p50 {:.1f} us, p90 {:.1f} us, p99 {:.1f} us\n", r, latency.size(),
                   bytes, at(0.5), at(0.9), at(0.99));
      }
      plane->leave();
      if (r == 0) fmt::print("rank 0: broadcast() takes {:.2f} us\n", spent / messages * 1e6);
      std::fflush(stdout);
      return 0;
    }));
  }
  int failed = 0;
  for (const pid_t pid : children) failed += wait_child(pid, 100) != 0;
  return failed;
}
