// SPDX-License-Identifier: Apache-2.0
#include "schedule/step.h"

#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "base/error.h"

namespace sluice {
namespace {

Step sample_step() {
  Step s;
  s.id = 77;
  SlotInit init{3, 1, 4, 2, {}, 17};
  init.params.greedy = false;
  init.params.temperature = 0.7f;
  init.params.top_k = 40;
  init.params.seed = 0x123456789abcdefu;
  init.params.choice = 2;
  init.params.eos_ids = {2, 9};
  init.params.logit_bias = {{5, -1.5f}, {6, 2.0f}};
  init.length = 31;
  s.inits = {init, {1, 0, 0, 0, {}}};
  s.history = {9, 8, 7, 6, 5};
  s.tables = {{3, 0, 0, 11}, {3, 1, 4, 12}};
  s.copies = {{0, 4, 5}};
  s.sequences = {{3, 0, 2, 30, Phase::kPrefill}, {1, 2, 1, 8, Phase::kDecode}};
  s.tokens = {10, 11, -1};
  s.samples = {{1, 3, 32, -1}, {2, 1, 9, 4}};
  return s;
}

std::vector<std::byte> bytes_of(const Step& s) {
  std::vector<std::byte> out;
  serialise(s, out);
  return out;
}

void put_u32(std::vector<std::byte>& bytes, size_t at, uint32_t value) { std::memcpy(bytes.data() + at, &value, 4); }

}  // namespace

TEST_CASE("a step survives the wire") {
  const std::vector<std::byte> bytes = bytes_of(sample_step());
  Step s;
  s.tokens = {1, 2, 3, 4, 5, 6};  // of an earlier use
  deserialise(bytes, s);
  CHECK(s.id == 77);
  REQUIRE(s.inits.size() == 2);
  CHECK(s.inits[0].params.seed == 0x123456789abcdefu);
  CHECK(s.inits[0].params.temperature == 0.7f);
  CHECK(s.inits[0].params.logit_bias[1].bias == 2.0f);
  CHECK(s.inits[0].n_output == 2);
  CHECK(s.inits[0].n_encoder == 17);
  CHECK(s.inits[0].length == 31);
  CHECK(s.history[4] == 5);
  CHECK(s.tables[1].block == 12);
  CHECK(s.copies[0].to == 5);
  CHECK(s.sequences[1].phase == Phase::kDecode);
  CHECK(s.sequences[0].first_position == 30);
  CHECK(s.tokens == std::vector<int32_t>{10, 11, -1});
  CHECK(s.samples[1].target == 4);
  CHECK(bytes_of(s) == bytes);

  Step end;
  end.id = 78;
  end.shutdown = true;
  deserialise(bytes_of(end), s);
  CHECK(s.shutdown);
  CHECK(s.tokens.empty());
}

TEST_CASE("a step cut short or followed by anything is refused") {
  std::vector<std::byte> bytes = bytes_of(sample_step());
  Step s;
  for (size_t n = 0; n < bytes.size(); ++n) CHECK_THROWS_AS(deserialise(std::span(bytes).first(n), s), Error);
  bytes.push_back(std::byte{0});
  CHECK_THROWS_AS(deserialise(bytes, s), Error);
}

TEST_CASE("another version is refused") {
  std::vector<std::byte> bytes = bytes_of(sample_step());
  put_u32(bytes, 0, Step::kVersion + 1);
  Step s;
  CHECK_THROWS_WITH_AS(deserialise(bytes, s), doctest::Contains("another version"), Error);
}

TEST_CASE("a count beyond the bytes is refused before memory is taken for it") {
  const std::vector<std::byte> bytes = bytes_of(Step{});
  for (size_t at = 16; at + 4 <= bytes.size(); at += 4) {  // after version, id and flag: counts only
    std::vector<std::byte> broken = bytes;
    put_u32(broken, at, 0xffffffffu);
    Step s;
    CHECK_THROWS_AS(deserialise(broken, s), Error);
    CHECK(s.tokens.capacity() + s.tables.capacity() + s.samples.capacity() < 100);
  }
}

TEST_CASE("rows, histories and samples outside the step are refused") {
  const auto refused = [](auto change) {
    Step step = sample_step(), s;
    change(step);
    CHECK_THROWS_AS(deserialise(bytes_of(step), s), Error);
  };
  refused([](Step& s) { s.sequences[1].n_rows = 2; });
  refused([](Step& s) { s.sequences[0].first_row = -1; });
  refused([](Step& s) { s.samples[0].row = 3; });
  refused([](Step& s) { s.inits[0].n_history = 5; });
  refused([](Step& s) { s.inits[0].n_output = 5; });
  refused([](Step& s) { s.tables[0].block = -2; });
  refused([](Step& s) { s.tokens[0] = -2; });
  refused([](Step& s) { s.sequences[0].phase = static_cast<Phase>(9); });
  refused([](Step& s) { s.sequences[0].phase = Phase::kEncode; });  // not the last
  refused([](Step& s) { s.inits[0].n_encoder = -1; });
}

TEST_CASE("random damage either gives a step or an error") {
  std::mt19937 random(5);
  const std::vector<std::byte> good = bytes_of(sample_step());
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes = good;
    for (unsigned k = 1 + random() % 4; k > 0; --k) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    Step s;
    try {
      deserialise(bytes, s);
      for (const SampleEntry& e : s.samples) REQUIRE(e.row < s.rows());
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > 1000);
}

}  // namespace sluice
