// SPDX-License-Identifier: Apache-2.0
#include "launch/shape.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"

using namespace sluice;

namespace {
PlanRequest llama_8b() {
  PlanRequest request;
  request.model.parameters = 8'030'000'000, request.model.linear_parameters = 7'500'000'000;
  request.model.n_layers = 32, request.model.n_heads = 32, request.model.n_kv_heads = 8, request.model.head_dim = 128;
  request.model.d_model = 4096, request.model.d_ff = 14336, request.model.vocab = 128256;
  request.model.max_positions = 8192;
  request.context = 4096;
  return request;
}
std::string joined(const JobShape& shape) { return fmt::format("{}", fmt::join(shape_options(shape), " ")); }
}  // namespace

TEST_CASE("what sinfo lists becomes kinds of GPUs by partition, with the most that a node has") {
  const auto offers = parse_gpu_offers(
      "main|gpu:a100l:4(S:0-1)\nmain|gpu:a100l:8(S:0),gpu:a100l.3:2\nlong|gpu:4\ncpu|(null)\ncpu|tmpdisk:1\n");
  REQUIRE(offers.size() == 3);
  CHECK((offers[0].partition == "long" && offers[0].type.empty() && offers[0].per_node == 4));
  CHECK((offers[1].type == "a100l" && offers[1].per_node == 8));
  CHECK((offers[2].type == "a100l.3" && offers[2].per_node == 2));
  CHECK_FALSE(read_gpu_offers([](const auto&, double) { return std::nullopt; }, ""));
}

TEST_CASE("the fewest and then the smallest GPUs that the cluster has are asked for by its own names") {
  const auto offers = parse_gpu_offers("main|gpu:h100:4\nmain|gpu:nvidia_a100-sxm4-40gb:4\nmain|gpu:v100:8\n");
  CHECK(joined(best_offer(llama_8b(), offers, 0, 0)) ==
        "--ntasks-per-node=1 --gpus-per-node=nvidia_a100-sxm4-40gb:1 --cpus-per-task=6 --mem=20G");
  CHECK(joined(best_offer(llama_8b(), parse_gpu_offers("x|gpu:h100:2\n"), 2, 2)) ==
        "--nodes=2 --ntasks-per-node=2 --gpus-per-node=h100:2 --cpus-per-task=6 --mem=24G");
}

TEST_CASE("a cluster without a usable kind of GPU is told why of each") {
  CHECK_THROWS_WITH_AS(
      best_offer(llama_8b(), parse_gpu_offers("a|gpu:4\nb|gpu:v100:4\nc|gpu:abacus:2\n"), 0, 0),
      doctest::Contains("GPUs without a type: Slurm does not say what they are; abacus: GPU 'abacus' is "
                        "not known"),
      Error);
  CHECK_THROWS_WITH_AS(best_offer(llama_8b(), {}, 0, 0), doctest::Contains("sinfo lists none"), Error);
}

TEST_CASE("ranks on CPUs ask for the memory of weights and cache") {
  PlanRequest request = llama_8b();
  request.sequences = 2;
  const JobShape one = cpu_shape(request, 1, 1), two = cpu_shape(request, 2, 2);
  // 15.0 GiB twice, 2 x 4096 tokens of 128 KiB, and half a GiB.
  CHECK(one.memory_mb == doctest::Approx(2 * 15315 + 1024 + 512).epsilon(0.01));
  CHECK(two.memory_mb == doctest::Approx(15315 + 512 + 512).epsilon(0.01));
  CHECK(joined(two).starts_with("--nodes=2 --ntasks-per-node=1 --cpus-per-task=8 --mem="));
  CHECK_THROWS_WITH_AS(cpu_shape(request, 2, 3), doctest::Contains("multiple of 2"), Error);
}

TEST_CASE("Slurm's time limits are read in all their forms") {
  CHECK(parse_time_limit("30") == 1800);
  CHECK(parse_time_limit("2:30") == 150);
  CHECK(parse_time_limit("1:00:00") == 3600);
  CHECK(parse_time_limit("2-12") == 60 * 3600);
  CHECK(parse_time_limit("1-2:30") == 86400 + 9000);
  CHECK(parse_time_limit("1-0:0:5") == 86405);
  for (const char* bad : {"", "x", "1-", "-5", "1-2:3:4:5", "5m"}) CHECK_FALSE(parse_time_limit(bad));
}
