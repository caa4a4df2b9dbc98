// SPDX-License-Identifier: Apache-2.0
#include "comm/tcp.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "comm/collective_checks.h"

using namespace sluice;

namespace {

// Ranks as threads, a pair of connected streams between every two.
std::vector<std::string> on_ranks(int tp, int pp, const std::function<std::string(Groups&)>& body) {
  const auto world = static_cast<size_t>(tp * pp);
  std::vector<std::vector<int>> sockets(world, std::vector<int>(world, -1));
  for (size_t a = 0; a < world; ++a)
    for (size_t b = a + 1; b < world; ++b) {
      int pair[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
      sockets[a][b] = pair[0];
      sockets[b][a] = pair[1];
    }
  std::vector<std::string> wrong(world);
  std::vector<std::thread> threads;
  for (size_t r = 0; r < world; ++r)
    threads.emplace_back([&, r] {
      const int rank = static_cast<int>(r);
      std::vector<int> tp_ranks, pp_ranks;
      for (int i = 0; i < tp; ++i) tp_ranks.push_back(rank / tp * tp + i);
      for (int i = 0; i < pp; ++i) pp_ranks.push_back(rank % tp + i * tp);
      Groups groups = tcp_groups(rank, sockets[r], tp_ranks, pp_ranks, r % 2 == 0);
      wrong[r] = groups.tp_rank() == rank % tp && groups.stage() == rank / tp ? body(groups) : "a wrong place";
    });
  for (std::thread& thread : threads) thread.join();
  return wrong;
}

Tensor floats(std::vector<float>& data) { return {data.data(), DType::kF32, {static_cast<int64_t>(data.size())}}; }

double thread_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

TEST_CASE("collectives over streams are right and sum in rank order") {
  for (const auto& [tp, pp] : {std::pair{2, 1}, {3, 1}, {2, 2}}) {
    const auto wrong = on_ranks(tp, pp, [](Groups& groups) {
      for (Communicator* group : {groups.world.get(), groups.tp.get(), groups.pp.get()})
        if (std::string what = check_everything(*group); !what.empty()) return what;
      return std::string();
    });
    for (const std::string& what : wrong) CHECK(what == "");
  }
}

TEST_CASE("a message waits for the one who asks for it while collectives pass by") {
  const auto wrong = on_ranks(2, 1, [](Groups& groups) {
    std::vector<float> message(300000, groups.tp_rank() == 0 ? 7.0f : 0.0f), sum(50000, 1.0f);
    if (groups.tp_rank() == 0) groups.tp->send(floats(message), 1);
    for (int i = 0; i < 3; ++i) {
      groups.tp->all_reduce(floats(sum));
      groups.world->all_reduce(floats(sum));
    }
    if (groups.tp_rank() == 1) groups.tp->recv(floats(message), 0);
    return sum == std::vector<float>(50000, 64.0f) && message == std::vector<float>(300000, 7.0f) ? "" : "changed";
  });
  for (const std::string& what : wrong) CHECK(what == "");
}

TEST_CASE("a long message arrives although its sender makes no further call") {
  std::atomic<bool> arrived{false};
  const auto wrong = on_ranks(1, 2, [&](Groups& groups) {
    std::vector<float> message(4 << 20, 1.5f);
    if (groups.first_stage()) {
      groups.pp->send(floats(message), 1);
      for (int i = 0; i < 2000 && !arrived; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return std::string(arrived ? "" : "it did not arrive");
    }
    std::vector<float> got(message.size());
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    groups.pp->recv(floats(got), 0);
    arrived = true;
    return std::string(got == message ? "" : "it arrived changed");
  });
  for (const std::string& what : wrong) CHECK(what == "");
}

TEST_CASE("what was sent last arrives although its sender has left") {
  const auto wrong = on_ranks(1, 2, [](Groups& groups) {
    std::vector<float> message(4 << 20, 2.5f);
    if (groups.first_stage()) {
      groups.pp->send(floats(message), 1);
      groups = {};
      return std::string();
    }
    std::vector<float> got(message.size());
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    groups.pp->recv(floats(got), 0);
    return std::string(got == message ? "" : "it arrived changed");
  });
  for (const std::string& what : wrong) CHECK(what == "");
}

TEST_CASE("waiting for a late rank takes no CPU") {
  const auto wrong = on_ranks(2, 1, [](Groups& groups) {
    std::vector<float> one{1};
    if (groups.tp_rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(800));
    const double before = thread_seconds();
    groups.tp->all_reduce(floats(one));
    return std::string(groups.tp_rank() == 0 || thread_seconds() - before < 0.1 ? "" : "it was busy");
  });
  for (const std::string& what : wrong) CHECK(what == "");
}
