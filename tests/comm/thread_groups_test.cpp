// SPDX-License-Identifier: Apache-2.0
#include "comm/thread_groups.h"

#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <thread>

#include "comm/collective_checks.h"

using namespace sluice;

namespace {
// Runs `body` on one thread per rank; the answers by rank.
std::vector<std::string> on_all_ranks(std::vector<Groups>& groups, const std::function<std::string(Groups&)>& body) {
  std::vector<std::string> answers(groups.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < groups.size(); ++r) threads.emplace_back([&, r] { answers[r] = body(groups[r]); });
  for (auto& thread : threads) thread.join();
  return answers;
}
}  // namespace

TEST_CASE("threads agree on every collective at every size") {
  for (int size : {1, 2, 3, 4, 7}) {
    auto groups = make_thread_groups(size, 1);
    for (const auto& wrong : on_all_ranks(groups, [](Groups& g) { return check_everything(*g.world); }))
      CHECK(wrong == "");
  }
}

TEST_CASE("the groups of 2 x 3 ranks do not disturb each other") {
  auto groups = make_thread_groups(2, 3);
  for (size_t r = 0; r < groups.size(); ++r) {
    CHECK(groups[r].world->rank() == static_cast<int>(r));
    CHECK(groups[r].stage() == static_cast<int>(r) / 2);
    CHECK(groups[r].tp_rank() == static_cast<int>(r) % 2);
    CHECK(groups[r].first_stage() == (r < 2));
    CHECK(groups[r].last_stage() == (r >= 4));
  }
  const auto wrong = on_all_ranks(groups, [](Groups& g) -> std::string {
    for (int round = 0; round < 50; ++round) {
      for (Communicator* comm : {g.tp.get(), g.pp.get(), g.world.get()}) {
        if (auto w = check_all_reduce(*comm, 100 + round); !w.empty()) return w;
        if (auto w = check_ring(*comm, 10, 2); !w.empty()) return w;
      }
    }
    return {};
  });
  for (const auto& w : wrong) CHECK(w == "");
}
