// SPDX-License-Identifier: Apache-2.0
#include "cluster/placement.h"

#include <doctest/doctest.h>

#include "base/error.h"

using namespace sluice;

namespace {
// One place per rank: host_of[rank] is its host.
std::vector<RankPlace> places_on(const std::vector<std::string>& host_of) {
  std::vector<RankPlace> places;
  for (size_t rank = 0; rank < host_of.size(); ++rank) {
    int local = 0;
    for (size_t i = 0; i < rank; ++i) local += host_of[i] == host_of[rank];
    places.push_back({.rank = static_cast<int>(rank),
                      .host = host_of[rank],
                      .boot_id = "b",
                      .local_rank = local,
                      .device_uuid = "",
                      .visible_devices = 0});
  }
  return places;
}
std::vector<RankPlace> gpus_on(const std::vector<std::pair<std::string, std::string>>& host_and_uuid, int visible) {
  std::vector<std::string> hosts;
  for (const auto& [host, uuid] : host_and_uuid) hosts.push_back(host);
  std::vector<RankPlace> places = places_on(hosts);
  for (size_t i = 0; i < places.size(); ++i) {
    places[i].device_uuid = host_and_uuid[i].second;
    places[i].visible_devices = visible;
  }
  return places;
}
Layout layout(const std::vector<int>& hosts, std::optional<int> tp, std::optional<int> pp, ModelLimits limits = {},
              bool across = false) {
  return choose_layout(hosts, tp, pp, limits, across);
}
using Ranks = std::vector<int>;
}  // namespace

TEST_CASE("tensor parallelism fills a host and pipelines join the hosts") {
  const auto groups = plan_groups(2, 2, places_on({"a", "a", "b", "b"}), false);
  CHECK(groups[0].tp_ranks == Ranks{0, 1});
  CHECK(groups[0].pp_ranks == Ranks{0, 2});
  CHECK(groups[3].tp_index == 1);
  CHECK(groups[3].pp_stage == 1);
  CHECK(groups[3].tp_ranks == Ranks{2, 3});
  CHECK(groups[3].pp_ranks == Ranks{1, 3});
}

TEST_CASE("cyclic placement still packs groups inside hosts") {
  const auto groups = plan_groups(2, 2, places_on({"a", "b", "a", "b"}), false);
  CHECK(groups[0].tp_ranks == Ranks{0, 2});
  CHECK(groups[1].tp_ranks == Ranks{1, 3});
  CHECK(groups[1].pp_stage == 1);
  CHECK(groups[0].pp_ranks == Ranks{0, 1});
}

TEST_CASE("rank 0 leads the first stage even when its host sorts last") {
  const auto groups = plan_groups(1, 2, places_on({"z", "a"}), false);
  CHECK(groups[0].pp_stage == 0);
  CHECK(groups[0].tp_index == 0);
}

TEST_CASE("hosts of one name with different boots are two hosts") {
  auto places = places_on({"localhost", "localhost"});
  places[1].boot_id = "other";
  CHECK(ranks_per_host(places) == Ranks{1, 1});
  CHECK_THROWS_AS(plan_groups(2, 1, places, false), Error);
}

TEST_CASE("tensor parallelism across hosts is refused with what works") {
  const auto places = places_on({"a", "a", "a", "b"});
  CHECK_THROWS_WITH_AS(plan_groups(2, 2, places, false), doctest::Contains("3 on a, 1 on b"), Error);
  CHECK_THROWS_WITH_AS(plan_groups(2, 2, places, false), doctest::Contains("--tp 1 --pp 4 would work"), Error);
  CHECK_THROWS_WITH_AS(plan_groups(2, 2, places, false), doctest::Contains("--tp-across-hosts"), Error);
}

TEST_CASE("tensor parallelism across hosts works on request") {
  const auto groups = plan_groups(2, 1, places_on({"a", "b"}), true);
  CHECK(groups[0].tp_ranks == Ranks{0, 1});
  CHECK(groups[1].tp_index == 1);
  const auto uneven = plan_groups(2, 2, places_on({"a", "a", "a", "b"}), true);
  CHECK(uneven[3].tp_ranks == Ranks{2, 3});
}

TEST_CASE("the default keeps tensor parallelism inside hosts and pipelines the rest") {
  CHECK(layout({4}, {}, {}).tp == 4);
  CHECK(layout({1, 1}, {}, {}).pp == 2);
  CHECK(layout({2, 2}, {}, {}).tp == 2);
  CHECK(layout({4, 2}, {}, {}).tp == 2);
  CHECK(layout({4, 2}, {}, {}).pp == 3);
  CHECK(layout({1, 1}, {}, {}, {}, true).tp == 2);
}

TEST_CASE("the default respects the model's heads and layers") {
  CHECK(layout({8}, {}, {}, {.max_tp = 4, .max_pp = 16}).tp == 4);
  CHECK(layout({8}, {}, {}, {.max_tp = 4, .max_pp = 16}).pp == 2);
  CHECK_THROWS_WITH_AS(layout({16}, {}, {}, {.max_tp = 4, .max_pp = 2}), doctest::Contains("16 ranks are too many"),
                       Error);
}

TEST_CASE("one given number fixes the other") {
  CHECK(layout({4}, 2, {}).pp == 2);
  CHECK(layout({4}, {}, 4).tp == 1);
  CHECK(layout({1, 1}, 2, {}).tp == 2);  // plan_groups() then asks for the option
}

TEST_CASE("a task count that is not tp times pp is refused with the numbers that work") {
  CHECK_THROWS_WITH_AS(layout({4}, 4, 2), doctest::Contains("is 8 but 4 ranks were started"), Error);
  CHECK_THROWS_WITH_AS(layout({4}, 4, 2), doctest::Contains("--tp 2 --pp 2"), Error);
  CHECK_THROWS_WITH_AS(layout({4}, 4, 2), doctest::Contains("--ntasks=8"), Error);
  CHECK_THROWS_WITH_AS(layout({4}, 3, {}), doctest::Contains("--tp 3 does not divide the 4 ranks"), Error);
  CHECK_THROWS_WITH_AS(layout({4}, {}, 8), doctest::Contains("--ntasks=8"), Error);
  CHECK_THROWS_WITH_AS(layout({4}, 0, {}), doctest::Contains("expected 1 or more"), Error);
}

TEST_CASE("more tensor parallelism than heads and more stages than layers are refused") {
  CHECK_THROWS_WITH_AS(layout({8}, 8, {}, {.max_tp = 4, .max_pp = 8}), doctest::Contains("4 attention heads"), Error);
  CHECK_THROWS_WITH_AS(layout({8}, {}, 8, {.max_tp = 8, .max_pp = 2}), doctest::Contains("2 layers"), Error);
}

TEST_CASE("visible devices are opaque tokens") {
  using Tokens = std::vector<std::string>;
  CHECK(parse_visible_devices("0,1") == Tokens{"0", "1"});
  CHECK(parse_visible_devices("GPU-8f7a, MIG-1c2d-33") == Tokens{"GPU-8f7a", "MIG-1c2d-33"});
  CHECK(parse_visible_devices("MIG-GPU-aa/3/0") == Tokens{"MIG-GPU-aa/3/0"});
  CHECK(parse_visible_devices("").empty());
  CHECK(parse_visible_devices("NoDevFiles").empty());
  CHECK(parse_visible_devices("0,-1,1") == Tokens{"0"});
}

TEST_CASE("with all GPUs visible the local rank chooses") {
  CHECK(choose_device(4, 3, 4).index == 3);
  CHECK(choose_device(4, 3, 4).warnings.empty());
}

TEST_CASE("GPUs left over are reported as idle") {
  CHECK(choose_device(4, 1, 2).index == 1);
  REQUIRE(choose_device(4, 1, 2).warnings.size() == 1);
  CHECK(choose_device(4, 1, 2).warnings[0].find("2 of 4 GPUs") != std::string::npos);
}

TEST_CASE("a task that sees one GPU takes it") { CHECK(choose_device(1, 3, 4).index == 0); }

TEST_CASE("too few GPUs are refused with the request that works") {
  CHECK_THROWS_WITH_AS(choose_device(0, 0, 2), doctest::Contains("--gpus-per-node=2"), Error);
  CHECK_THROWS_WITH_AS(choose_device(2, 3, 4), doctest::Contains("--gpus-per-node=4 or start 2 tasks per node"), Error);
}

TEST_CASE("two ranks on one GPU are refused with both names") {
  const auto places = gpus_on({{"a", "GPU-1"}, {"a", "GPU-2"}, {"a", "GPU-1"}}, 1);
  CHECK_THROWS_WITH_AS(check_devices(places, 1), doctest::Contains("ranks 0 and 2 are both on GPU GPU-1 of host a"),
                       Error);
}

TEST_CASE("per-task hiding of GPUs is a warning that names the option") {
  const auto warnings = check_devices(gpus_on({{"a", "GPU-1"}, {"a", "GPU-2"}}, 1), 2);
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].find("--gpu-bind=none") != std::string::npos);
  CHECK(check_devices(gpus_on({{"a", "GPU-1"}, {"b", "GPU-2"}}, 1), 1).empty());
  CHECK(check_devices(gpus_on({{"a", "GPU-1"}, {"a", "GPU-2"}}, 2), 2).empty());
}

TEST_CASE("tensor parallelism over MIG instances is refused, one model per instance is not") {
  const auto places = gpus_on({{"a", "MIG-1"}, {"a", "MIG-2"}}, 1);
  CHECK_THROWS_WITH_AS(check_devices(places, 2), doctest::Contains("instances cannot reach each other's memory"),
                       Error);
  CHECK(check_devices(places, 1).empty());
}
