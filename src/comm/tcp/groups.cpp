// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <numeric>

#include "comm/collectives.h"
#include "comm/host_communicator.h"
#include "comm/tcp.h"
#include "comm/tcp/links.h"

namespace sluice {
namespace {

using tcp::Links;

// Groups of one rank share their links; a group's collectives and its messages have a channel each.
struct Members {
  std::shared_ptr<Links> links;
  std::vector<int> ranks;  // of the world, in group order
  uint32_t collectives = 0, messages = 0;
};

struct Transport {
  const Members* group;
  bool begin_send(const void* data, size_t bytes, int to) {
    group->links->begin_send(group->collectives, data, bytes, group->ranks[static_cast<size_t>(to)]);
    return true;
  }
  bool begin_recv(void* data, size_t bytes, int from) {
    group->links->begin_recv(group->collectives, data, bytes, group->ranks[static_cast<size_t>(from)]);
    return true;
  }
  bool wait() {
    group->links->wait();
    return true;
  }
};

class TcpCommunicator final : public HostCommunicator {
 public:
  TcpCommunicator(Members members, int rank)
      : HostCommunicator(rank, static_cast<int>(members.ranks.size())),
        members_(std::move(members)),
        collectives_(Transport{&members_}, rank, size()) {}

 private:
  // What fails in Links ends the process.
  void sum(float* data, size_t n) override {
    const Links::Turn turn(*members_.links);
    collectives_.all_reduce(data, n);
  }
  void gather(void* out, const void* in, size_t bytes) override {
    const Links::Turn turn(*members_.links);
    collectives_.all_gather(out, in, bytes);
  }
  void spread(void* data, size_t bytes, int root) override {
    const Links::Turn turn(*members_.links);
    collectives_.broadcast(data, bytes, root);
  }
  void give(const void* data, size_t bytes, int to) override {
    const Links::Turn turn(*members_.links);
    members_.links->send(members_.messages, data, bytes, members_.ranks[static_cast<size_t>(to)]);
  }
  void take(void* data, size_t bytes, int from) override {
    const Links::Turn turn(*members_.links);
    members_.links->begin_recv(members_.messages, data, bytes, members_.ranks[static_cast<size_t>(from)]);
    members_.links->wait();
  }

  const Members members_;
  Collectives<Transport> collectives_;
};

}  // namespace

Groups tcp_groups(int rank, std::vector<int> sockets, std::span<const int> tp_ranks, std::span<const int> pp_ranks,
                  bool spin) {
  std::vector<int> world(sockets.size());
  std::iota(world.begin(), world.end(), 0);
  const auto links = std::make_shared<Links>(std::move(sockets), spin);
  uint32_t channel = 0;
  const auto make = [&](std::span<const int> ranks) -> std::unique_ptr<Communicator> {
    Members members{links, {ranks.begin(), ranks.end()}, ++channel, ++channel};
    const auto place = std::ranges::find(members.ranks, rank) - members.ranks.begin();
    check(place < static_cast<std::ptrdiff_t>(ranks.size()), "a rank is not in its own groups");
    if (ranks.size() == 1) return make_solo_communicator();
    return std::make_unique<TcpCommunicator>(std::move(members), static_cast<int>(place));
  };
  Groups groups;
  groups.world = make(world);
  groups.tp = make(tp_ranks);
  groups.pp = make(pp_ranks);
  return groups;
}

}  // namespace sluice
