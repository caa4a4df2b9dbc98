// SPDX-License-Identifier: Apache-2.0
#include "sampling.h"

#include <algorithm>

#include "cuda/device_arrays.h"
#include "sample/params.h"

namespace sluice {
namespace {
using namespace test;

static_assert(sizeof(kernels::TokenResult) == sizeof(SampledToken) && kernels::kMaxTop == kMaxTopLogprobs);
static_assert(sizeof(kernels::TokenBias) == sizeof(LogitBias) && sizeof(kernels::TokenAt) == sizeof(ForcedToken));

// A sampler on both sides: the CPU backend's, and slots on the device.
class Sampler {
 public:
  Sampler(int64_t slots, int64_t vocab)
      : slots_(slots),
        vocab_(vocab),
        stride_((vocab + 1) / 2 * 2),
        host_(cpu().make_sampler(slots, vocab)),
        params_(static_cast<size_t>(slots)),
        sequences_(std::vector<kernels::TokenSequence>(static_cast<size_t>(slots))),
        counts_(static_cast<size_t>(slots * stride_) * 2),
        last_(std::vector<int32_t>(static_cast<size_t>(slots), -1)) {}

  void set(int64_t slot, const SamplingParams& p, const std::vector<int32_t>& history, int64_t n_output) {
    cpu().set_slot(*host_, slot, p, history.data(), static_cast<int64_t>(history.size()), n_output);
    kernels::SlotParams& s = params_[static_cast<size_t>(slot)];
    s = {};
    s.greedy = p.greedy;
    s.temperature = p.temperature;
    s.top_k = p.top_k;
    s.top_p = p.top_p;
    s.min_p = p.min_p;
    s.typical_p = p.typical_p;
    s.repetition_penalty = p.repetition_penalty;
    s.frequency_penalty = p.frequency_penalty;
    s.presence_penalty = p.presence_penalty;
    s.choice = p.choice;
    s.seed = p.seed;
    s.n_logprobs = p.n_logprobs;
    s.raw_logprobs = p.raw_logprobs;
    s.epsilon_cutoff = p.epsilon_cutoff;
    s.eta_cutoff = p.eta_cutoff;
    s.no_repeat_ngram = p.no_repeat_ngram;
    s.decay_factor = p.decay_factor;
    s.eos_from = p.eos_from;
    s.watermark_gamma = p.watermark_gamma;
    s.watermark_delta = p.watermark_delta;
    if (!history.empty())
      CUDA_OK(cudaMemcpy(last_.data() + slot, &history.back(), sizeof(int32_t), cudaMemcpyHostToDevice));
    s.decay_from = p.decay_from;
    s.begin_position = p.begin_position;
    s.eos = list(p.eos_ids);
    s.decay = list(p.decay_ids);
    s.suppress = list(p.suppress);
    s.begin_suppress = list(p.begin_suppress);
    s.allowed = list(p.allowed);
    s.bad_words = list(p.bad_words);
    bias_.emplace_back(p.logit_bias);
    s.logit_bias = reinterpret_cast<const kernels::TokenBias*>(bias_.back().data());
    s.n_bias = static_cast<int32_t>(p.logit_bias.size());
    forced_.emplace_back(p.forced);
    s.forced = reinterpret_cast<const kernels::TokenAt*>(forced_.back().data());
    s.n_forced = static_cast<int32_t>(p.forced.size());
    if (p.no_repeat_ngram > 0 || !p.bad_words.empty()) {
      std::vector<int32_t> room = history;
      room.resize(history.size() + 8);
      const kernels::IdList ids = list(room);
      const kernels::TokenSequence sequence{const_cast<int32_t*>(ids.ids), static_cast<int64_t>(history.size()), ids.n};
      CUDA_OK(cudaMemcpy(sequences_.data() + slot, &sequence, sizeof sequence, cudaMemcpyHostToDevice));
    }
    const DeviceVector<int32_t> d_history(history);
    auto* counts = static_cast<uint16_t*>(counts_.data()) + slot * stride_;
    CUDA_OK(kernels::set_history({counts, d_history.data(), vocab_, static_cast<int64_t>(history.size()), n_output},
                                 nullptr));
    CUDA_OK(cudaDeviceSynchronize());
  }

  void mask(int64_t slot, const std::vector<uint32_t>& words) {
    cpu().set_mask(*host_, slot, words.data());
    masks_.emplace_back(words);
    params_[static_cast<size_t>(slot)].mask = masks_.back().data();
  }

  // Samples on both sides and compares; returns the results.
  std::vector<SampledToken> sample(std::vector<float> logits, std::vector<int32_t> entries) {
    const auto n = static_cast<int64_t>(entries.size()) / 4, rows = static_cast<int64_t>(logits.size()) / vocab_;
    const DeviceVector<float> d_logits(logits);
    const DeviceVector<int32_t> d_entries(entries);
    const DeviceVector<kernels::SlotParams> d_slots(params_);
    DeviceBytes scratch(static_cast<size_t>(n * vocab_) * 4);
    const std::vector<SampledToken> blank(static_cast<size_t>(n));
    const DeviceVector<SampledToken> out(blank);
    CUDA_OK(kernels::sample({reinterpret_cast<kernels::TokenResult*>(out.data()), d_logits.data(), d_entries.data(),
                             d_slots.data(), sequences_.data(), static_cast<uint16_t*>(counts_.data()), last_.data(),
                             static_cast<float*>(scratch.data()), n, vocab_, vocab_, stride_},
                            nullptr));
    const std::vector<SampledToken> got = out.read();
    CHECK(std::memcmp(d_logits.read().data(), logits.data(), logits.size() * 4) == 0);  // NaN included

    std::vector<SampledToken> want(static_cast<size_t>(n));
    std::vector<int32_t> real;
    std::vector<size_t> places;
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
      if (entries[4 * i] < 0 || entries[4 * i + 1] < 0) continue;
      real.insert(real.end(), &entries[4 * i], &entries[4 * i] + 4);
      places.push_back(i);
    }
    std::vector<SampledToken> packed(places.size());
    cpu().sample(*host_, Tensor(packed.data(), DType::kU8, {static_cast<int64_t>(packed.size()), sizeof(SampledToken)}),
                 host_tensor(logits, rows, vocab_),
                 Tensor(real.data(), DType::kI32, {static_cast<int64_t>(packed.size()), 4}));
    for (size_t i = 0; i < places.size(); ++i) want[places[i]] = packed[i];
    const std::vector<int32_t> last = last_.read();
    for (size_t i = 0; i < want.size(); ++i) {
      const SampledToken &g = got[i], &w = want[i];
      CAPTURE(i);
      CHECK(g.token == w.token);
      CHECK(close(g.logprob, w.logprob));
      CHECK(g.rank == w.rank);
      CHECK(g.n_top == w.n_top);
      for (int t = 0; t < kMaxTopLogprobs; ++t) {
        CHECK(g.top_ids[t] == w.top_ids[t]);
        CHECK(close(g.top_logprobs[t], w.top_logprobs[t]));
      }
      if (entries[4 * i] >= 0 && entries[4 * i + 1] >= 0 && entries[4 * i + 3] == -1)
        CHECK(last[static_cast<size_t>(entries[4 * i + 1])] == w.token);
    }
    return got;
  }
  const DeviceVector<int32_t>& last() const { return last_; }

 private:
  // Equal, or one unit apart where the host adds up what a filter left in another order.
  static bool close(float a, float b) { return a == b || std::abs(a - b) <= std::abs(b) * 0x1p-22f; }

  kernels::IdList list(const std::vector<int32_t>& ids) {
    lists_.emplace_back(ids);
    return {lists_.back().data(), static_cast<int32_t>(ids.size())};
  }

  int64_t slots_, vocab_, stride_;
  std::unique_ptr<SamplerState> host_;
  std::vector<kernels::SlotParams> params_;
  DeviceVector<kernels::TokenSequence> sequences_;
  DeviceBytes counts_;
  DeviceVector<int32_t> last_;
  std::vector<DeviceVector<int32_t>> lists_;
  std::vector<DeviceVector<LogitBias>> bias_;
  std::vector<DeviceVector<ForcedToken>> forced_;
  std::vector<DeviceVector<uint32_t>> masks_;
};

// Parameters with each feature on in about a third of the draws.
SamplingParams random_params(std::mt19937& random, int64_t vocab) {
  const auto chance = [&](double p) { return std::uniform_real_distribution<double>(0, 1)(random) < p; };
  const auto between = [&](float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); };
  const auto id = [&] { return static_cast<int32_t>(random() % static_cast<unsigned>(vocab + 2)) - 1; };
  SamplingParams p;
  p.greedy = chance(0.2);
  p.temperature = between(0.3f, 2.5f);
  if (chance(0.35)) p.top_k = static_cast<int32_t>(1 + random() % 40);
  if (chance(0.4)) p.top_p = between(0.05f, 0.999f);
  if (chance(0.25)) p.min_p = between(0.001f, 0.5f);
  if (chance(0.25)) p.typical_p = between(0.1f, 0.98f);
  if (chance(0.3)) p.repetition_penalty = between(0.7f, 1.6f);
  if (chance(0.3)) p.frequency_penalty = between(-0.5f, 1.0f);
  if (chance(0.3)) p.presence_penalty = between(-0.5f, 1.0f);
  if (chance(0.3)) {
    p.watermark_gamma = between(0.1f, 0.9f);
    p.watermark_delta = between(-2, 4);
  }
  p.seed = random() * uint64_t{0x100000001b3} + random();
  p.choice = static_cast<int32_t>(random() % 3);
  if (chance(0.5)) p.n_logprobs = static_cast<int32_t>(random() % 21);
  p.raw_logprobs = chance(0.5);
  if (chance(0.3)) p.eos_ids = {id(), id()};
  p.eos_from = 12;
  if (chance(0.3)) {
    for (int i = 0; i < 5; ++i) p.logit_bias.push_back({id(), between(-8, 8)});
    p.logit_bias.push_back(p.logit_bias[2]);  // one token twice
  }
  if (chance(0.15)) p.epsilon_cutoff = between(0.0001f, 0.05f);
  if (chance(0.15)) p.eta_cutoff = between(0.0001f, 0.05f);
  if (chance(0.2)) p.no_repeat_ngram = static_cast<int32_t>(1 + random() % 3);
  if (chance(0.2)) {
    p.decay_factor = between(0.8f, 1.3f);
    p.decay_from = 11;
    p.decay_ids = {id(), id()};
  }
  if (chance(0.2)) p.suppress = {id(), id(), id()};
  p.begin_position = 10;
  if (chance(0.2)) p.begin_suppress = {id(), id(), id()};
  if (chance(0.2)) {
    for (int32_t i = 0; i < vocab; ++i)
      if (chance(0.5)) p.allowed.push_back(i);
  }
  if (chance(0.2)) p.bad_words = {1, id(), 2, id(), id(), 3, id(), id(), id()};
  if (chance(0.2)) p.forced = {{11, id()}, {11, id()}, {13, id()}};
  return p;
}

std::vector<uint32_t> random_mask(std::mt19937& random, int64_t vocab) {
  std::vector<uint32_t> words(static_cast<size_t>(vocab + 31) / 32);
  for (uint32_t& word : words) word = static_cast<uint32_t>(random() | random());
  return words;
}

std::vector<float> random_logits(std::mt19937& random, int64_t n) {
  const float scale = std::uniform_real_distribution<float>(0.1f, 6.0f)(random);
  // Rounded to bf16, as a model's are: many equal scores.
  std::vector<float> out = normal(random, n, random() % 2 == 0 ? Type::kBF16 : Type::kF32, scale);
  if (random() % 4 == 0) {
    for (int i = 0; i < 5; ++i) out[random() % out.size()] = i % 2 == 0 ? -INFINITY : NAN;
  }
  return out;
}

TEST_CASE("sampled tokens equal the CPU backend's for random parameters, over steps with history") {
  std::mt19937 random(21);
  int64_t checked = 0;
  for (const int64_t vocab : {7, 300, 2051}) {
    for (int round = 0; round < 8; ++round) {
      const int64_t slots = 6;
      Sampler sampler(slots, vocab);
      for (int64_t s = 0; s < slots; ++s) {
        std::vector<int32_t> history;
        for (int i = 0; i < 30; ++i)
          history.push_back(static_cast<int32_t>(random() % static_cast<unsigned>(vocab + 1)));
        sampler.set(s, random_params(random, vocab), history, 10);
        if (s == 2) sampler.mask(s, random_mask(random, vocab));
      }
      for (int32_t position = 10; position < 14; ++position) {
        std::vector<int32_t> entries;
        for (int32_t s = 0; s < slots; ++s) {
          // Two slots share a row; one entry scores a token, one asks for candidates of a beam; one is padding.
          const int32_t target = s == 4   ? static_cast<int32_t>(random() % static_cast<unsigned>(vocab))
                                 : s == 3 ? -2 - round % 3
                                          : -1;
          entries.insert(entries.end(), {s == 1 ? 0 : s, s, position, target});
        }
        entries.insert(entries.end(), {0, -1, 0, -1, -1, 2, 0, -1});
        emulation::set_seed(random());
        if (position == 12) sampler.mask(2, random_mask(random, vocab));
        checked += static_cast<int64_t>(sampler.sample(random_logits(random, slots * vocab), entries).size());
      }
    }
  }
  CHECK(checked == 3 * 8 * 4 * 8);
}

TEST_CASE("each filter alone equals the CPU backend's, ties at its border included") {
  std::mt19937 random(22);
  const int64_t vocab = 1200;
  for (int filter = 0; filter < 6; ++filter) {
    CAPTURE(filter);
    Sampler sampler(8, vocab);
    for (int64_t s = 0; s < 8; ++s) {
      SamplingParams p;
      p.greedy = false;
      p.seed = random();
      p.n_logprobs = 5;
      p.raw_logprobs = false;
      const float share = static_cast<float>(s + 1) / 8.5f;
      if (filter == 0) p.top_k = static_cast<int32_t>(1 + s * 37);
      if (filter == 1) p.top_p = share;
      if (filter == 2) p.min_p = share;
      if (filter == 3) p.typical_p = share;
      if (filter == 4) p.epsilon_cutoff = share / 400;
      if (filter == 5) p.eta_cutoff = share / 100;
      sampler.set(s, p, {}, 0);
    }
    for (const float step : {0.0f, 0.5f, 3.0f}) {  // logits in steps: nothing but ties for 0
      std::vector<float> logits = normal(random, 8 * vocab);
      for (float& l : logits) l = step > 0 ? std::round(l / step) * step : 1.5f;
      for (int32_t position = 0; position < 3; ++position) {
        std::vector<int32_t> entries;
        for (int32_t s = 0; s < 8; ++s) entries.insert(entries.end(), {s, s, position, -1});
        sampler.sample(logits, entries);
      }
    }
  }
}

TEST_CASE("runs and words that may not come again follow what was drawn") {
  Sampler sampler(2, 5);
  SamplingParams p;
  p.no_repeat_ngram = 2;
  sampler.set(0, p, {3, 1, 2}, 0);  // 2 then 3 would be new; 3 then 1 is not
  p.no_repeat_ngram = 0;
  p.bad_words = {2, 4, 0};
  sampler.set(1, p, {1}, 0);
  std::vector<float> logits(10, 0.0f);
  logits[3] = logits[5 + 4] = 9;  // what both draw first
  auto out = sampler.sample(logits, {0, 0, 3, -1, 1, 1, 1, -1});
  CHECK(out[0].token == 3);
  CHECK(out[1].token == 4);
  std::fill(logits.begin(), logits.end(), 0.0f);
  logits[1] = logits[5] = 9;  // 1 after 3, and 0 after 4
  logits[2] = logits[5 + 3] = 5;
  out = sampler.sample(logits, {0, 0, 4, -1, 1, 1, 2, -1});
  CHECK(out[0].token == 2);
  CHECK(out[1].token == 3);
}

TEST_CASE("a row where nothing may come gives token 0, and infinite logits are kept harmless") {
  for (const bool greedy : {true, false}) {
    Sampler sampler(3, 40);
    SamplingParams p;
    p.greedy = greedy;
    p.n_logprobs = 3;
    for (int64_t s = 0; s < 3; ++s) sampler.set(s, p, {}, 0);
    std::vector<float> logits(120, -INFINITY);
    logits[40 + 7] = INFINITY;
    logits[40 + 9] = 1.0f;
    for (size_t i = 80; i < 120; ++i) logits[i] = NAN;
    const auto out = sampler.sample(logits, {0, 0, 3, -1, 1, 1, 3, -1, 2, 2, 3, -1});
    CHECK(out[1].token == 7);
  }
}

TEST_CASE("resolve_tokens fills in what a slot sampled last") {
  Sampler sampler(3, 10);
  SamplingParams p;
  for (int64_t s = 0; s < 3; ++s) sampler.set(s, p, {}, 0);
  std::vector<float> logits(30, 0.0f);
  logits[4] = logits[19] = logits[22] = 1.0f;
  sampler.sample(logits, {0, 0, 3, -1, 1, 1, 3, -1, 2, 2, 3, -1});
  const DeviceVector<int32_t> tokens(std::vector<int32_t>{-1, 8, -1, -1, 0}),
      slots(std::vector<int32_t>{2, 0, 0, 1, 1});
  CUDA_OK(kernels::resolve_tokens({tokens.data(), slots.data(), sampler.last().data(), 5}, nullptr));
  CHECK(tokens.read() == std::vector<int32_t>{2, 8, 4, 9, 0});
}

}  // namespace
}  // namespace sluice
