// SPDX-License-Identifier: Apache-2.0
#include "sample/sampler.h"

#include <span>

#include "backend/arrays.h"

namespace sluice {
namespace {
using test::Matrix;

SampledToken at(const std::vector<uint8_t>& out, size_t i) {
  SampledToken token;
  std::memcpy(&token, out.data() + i * sizeof token, sizeof token);
  return token;
}

TEST_CASE("sampling on the backend equals the reference and stores the last token") {
  const auto backend = test::make_backend(3);
  constexpr int64_t kVocab = 700, kSlots = 9;
  const auto state = backend->make_sampler(kSlots, kVocab);
  std::mt19937 random(1);
  std::vector<SamplingParams> params(kSlots);
  std::vector<TokenHistory> histories;
  std::vector<int32_t> prompt{5, 9, 9, 30, 31, 32};
  for (int64_t slot = 0; slot < kSlots; ++slot) {
    SamplingParams& p = params[static_cast<size_t>(slot)];
    p.greedy = slot % 3 == 0;
    p.temperature = 0.7f + 0.1f * static_cast<float>(slot);
    p.top_p = slot % 2 == 0 ? 0.9f : 1.0f;
    p.seed = 100 + static_cast<uint64_t>(slot);
    p.n_logprobs = slot == 4 ? 3 : -1;
    if (slot % 4 == 1) p.frequency_penalty = 5.0f;
    if (slot % 4 == 3) p.repetition_penalty = 3.0f;
    backend->set_slot(*state, slot, p, prompt.data(), 6, 2);
    histories.emplace_back(kVocab);
    histories.back().add_prompt(std::span<const int32_t>(prompt.data(), 4));
    histories.back().add_output(31);
    histories.back().add_output(32);
  }
  for (int32_t step = 0; step < 12; ++step) {
    Matrix logits(kSlots + 1, kVocab, 3);
    logits.fill(random, 3.0f);
    Matrix copy = logits;
    std::vector<int32_t> rows;
    for (int32_t slot = 0; slot < kSlots; ++slot)
      rows.insert(rows.end(), {static_cast<int32_t>(kSlots) - slot, slot, 6 + step, -1});
    std::vector<uint8_t> out(kSlots * sizeof(SampledToken));
    backend->sample(*state, Tensor(out.data(), DType::kU8, {kSlots, sizeof(SampledToken)}), logits.tensor(),
                    Tensor(rows.data(), DType::kI32, {kSlots, 4}));
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      SamplerScratch scratch;
      SampledToken want;
      const size_t s = static_cast<size_t>(slot);
      sample_row(std::span(&copy.at(kSlots - slot, 0), kVocab), params[s], &histories[s], 6 + step, scratch, want);
      const SampledToken got = at(out, s);
      CHECK(got.token == want.token);
      CHECK(got.logprob == want.logprob);
      CHECK(got.n_top == want.n_top);
      histories[s].add_output(want.token);
      CHECK(state->last_tokens().as<int32_t>()[slot] == want.token);
    }
  }
}

TEST_CASE("a target is scored, not sampled, and leaves the slot alone") {
  const auto backend = test::make_backend();
  const auto state = backend->make_sampler(2, 50);
  SamplingParams p;
  p.n_logprobs = 2;
  backend->set_slot(*state, 1, p, nullptr, 0, 0);
  std::mt19937 random(2);
  Matrix logits(2, 50);
  logits.fill(random);
  const float want = score_row(std::span<const float>(&logits.at(1, 0), 50), 17);
  std::vector<int32_t> rows{0, 1, 3, -1, 1, 1, 4, 17};
  std::vector<uint8_t> out(2 * sizeof(SampledToken));
  Matrix before = logits;
  backend->sample(*state, Tensor(out.data(), DType::kU8, {2, sizeof(SampledToken)}), logits.tensor(),
                  Tensor(rows.data(), DType::kI32, {2, 4}));
  CHECK(at(out, 1).token == 17);
  CHECK(at(out, 1).logprob == want);
  CHECK(at(out, 1).n_top == 2);
  CHECK(logits.row_equals(1, before, 1));
  CHECK(state->last_tokens().as<int32_t>()[1] == at(out, 0).token);
}

TEST_CASE("choices that share a row of logits draw from the untouched row") {
  const auto backend = test::make_backend();
  constexpr int64_t kVocab = 300;
  const auto state = backend->make_sampler(3, kVocab);
  std::mt19937 random(4);
  std::vector<SamplingParams> params(3);
  for (int slot = 0; slot < 3; ++slot) {
    params[static_cast<size_t>(slot)].greedy = false;
    params[static_cast<size_t>(slot)].temperature = 1.5f;
    params[static_cast<size_t>(slot)].choice = slot;
    backend->set_slot(*state, slot, params[static_cast<size_t>(slot)], nullptr, 0, 0);
  }
  for (int32_t position = 0; position < 20; ++position) {
    Matrix logits(2, kVocab);
    logits.fill(random, 2.0f);
    const Matrix before = logits;
    std::vector<int32_t> rows{1, 0, position, -1, 1, 1, position, -1, 1, 2, position, -1};
    std::vector<uint8_t> out(3 * sizeof(SampledToken));
    backend->sample(*state, Tensor(out.data(), DType::kU8, {3, sizeof(SampledToken)}), logits.tensor(),
                    Tensor(rows.data(), DType::kI32, {3, 4}));
    for (size_t slot = 0; slot < 3; ++slot) {
      Matrix copy = before;
      SamplerScratch scratch;
      SampledToken want;
      sample_row(std::span(&copy.at(1, 0), kVocab), params[slot], nullptr, position, scratch, want);
      CHECK(at(out, slot).token == want.token);
    }
  }
}

TEST_CASE("a negative token is replaced by its slot's last one") {
  const auto backend = test::make_backend();
  const auto state = backend->make_sampler(3, 10);
  backend->set_slot(*state, 2, {}, nullptr, 0, 0);
  Matrix logits(1, 10);
  for (int64_t i = 0; i < 10; ++i) logits.at(0, i) = i == 6 ? 1.0f : 0.0f;
  std::vector<int32_t> rows{0, 2, 0, -1};
  std::vector<uint8_t> out(sizeof(SampledToken));
  backend->sample(*state, Tensor(out.data(), DType::kU8, {1, sizeof(SampledToken)}), logits.tensor(),
                  Tensor(rows.data(), DType::kI32, {1, 4}));
  std::vector<int32_t> tokens{4, -1, 9}, slots{0, 2, 2};
  backend->resolve_tokens(*state, test::ints(tokens), test::ints(slots));
  CHECK(tokens == std::vector<int32_t>{4, 6, 9});
}

TEST_CASE("a slot taken over forgets its former history") {
  const auto backend = test::make_backend();
  const auto state = backend->make_sampler(1, 4);
  SamplingParams p;
  p.presence_penalty = 10.0f;
  const std::vector<int32_t> output{3};
  std::vector<int32_t> rows{0, 0, 1, -1};
  std::vector<uint8_t> out(sizeof(SampledToken));
  const auto sample = [&] {
    Matrix logits(1, 4);
    for (int64_t i = 0; i < 4; ++i) logits.at(0, i) = static_cast<float>(i);
    backend->sample(*state, Tensor(out.data(), DType::kU8, {1, sizeof(SampledToken)}), logits.tensor(),
                    Tensor(rows.data(), DType::kI32, {1, 4}));
    return at(out, 0).token;
  };
  backend->set_slot(*state, 0, p, output.data(), 1, 1);
  CHECK(sample() == 2);
  CHECK(sample() == 1);
  backend->set_slot(*state, 0, p, nullptr, 0, 0);
  CHECK(sample() == 3);
}

}  // namespace
}  // namespace sluice
