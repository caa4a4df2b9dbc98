// SPDX-License-Identifier: Apache-2.0
// The whole engine over real models: what comes out depends on the request alone.
#include "backend/cpu/cpu_backend.h"
#include "engine/model_run.h"

namespace sluice {

TEST_CASE("greedy tokens equal the reference's, whatever the step size and the cache") {
  for (const char* name : {"llama2_gqa", "mistral_window", "llama31_rope", "qwen2", "odd_counts"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    const std::vector<GenerateRequest> requests = greedy_requests(golden);
    for (const int64_t budget : {7, 16, 512})
      for (const bool cache : {false, true}) {
        CAPTURE(budget);
        CAPTURE(cache);
        Setup setup;
        setup.token_budget = budget;
        setup.prefix_cache = cache;
        setup.max_seqs = std::min<int64_t>(budget, 8);
        const Outcome outcome = run(golden, requests, setup);
        check_greedy(golden, outcome);
        CHECK(outcome.stats.preemptions == 0);
        if (!cache) CHECK(outcome.stats.cached_tokens == 0);
      }
  }
}

TEST_CASE("greedy tokens survive preemption in a tiny cache") {
  const Golden golden = read_golden("llama2_gqa");
  const std::vector<GenerateRequest> requests = greedy_requests(golden);
  for (const bool cache : {false, true}) {
    Setup setup;
    setup.prefix_cache = cache;
    setup.cache_tokens = static_cast<int64_t>(golden.prompt.size()) + 64 + 24;
    const Outcome outcome = run(golden, requests, setup);
    check_greedy(golden, outcome);
    CHECK(outcome.stats.preemptions > 0);
  }
}

TEST_CASE("a prompt that was seen before is found in the cache, behind windows too") {
  for (const std::string name :
       {"llama2_gqa", "mistral_window", "qwen2_window", "gemma/gemma3", "mixtral/odd_window"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    Setup setup;
    setup.max_seqs = 1;  // one after the other
    setup.dtype = "float32";
    const Outcome outcome = run(golden, greedy_requests(golden), setup);
    check_greedy(golden, outcome);
    CHECK(outcome.sinks[0]->usage.cached_tokens == 0);
    CHECK(outcome.sinks[1]->usage.cached_tokens > 0);
    if (name != "llama2_gqa") continue;
    CHECK(outcome.sinks[5]->usage.cached_tokens >= static_cast<int32_t>(golden.prompt.size()) + 40);
  }
}

TEST_CASE("seeded samples depend neither on the batch nor on preemption") {
  for (const char* name : {"llama2_gqa", "qwen3/moe", "rope_dynamic_long"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    const std::vector<GenerateRequest> requests = sampled_requests(golden);
    std::vector<std::shared_ptr<RecordingSink>> alone;
    for (const GenerateRequest& r : requests) alone.push_back(run(golden, {r}, {}).sinks[0]);
    CHECK(tokens_of(*alone[4], 0) != tokens_of(*alone[4], 1));
    const auto compare = [&](const Setup& setup) {
      Outcome outcome = run(golden, requests, setup);
      for (size_t i = 0; i < requests.size(); ++i)
        for (int32_t c = 0; c < requests[i].n; ++c) {
          const auto &a = alone[i]->choices[c].pieces, &b = outcome.sinks[i]->choices[c].pieces;
          REQUIRE(a.size() == b.size());
          for (size_t k = 0; k < a.size(); ++k) {
            CHECK(a[k].token.id == b[k].token.id);
            CHECK(a[k].token.logprob == b[k].token.logprob);  // to the bit
            REQUIRE(b[k].token.top.size() == 2);
            CHECK(a[k].token.top[1].logprob == b[k].token.top[1].logprob);
          }
        }
      return outcome.stats;
    };
    Setup setup;
    setup.token_budget = 9;
    compare(setup);
    setup.token_budget = 512;
    setup.prefix_cache = false;
    compare(setup);
    setup.cache_tokens = 88;
    CHECK(compare(setup).preemptions > 0);
  }
}

TEST_CASE("prompt log probabilities are those of the logits") {
  const Golden golden = read_golden("llama2_gqa");
  GenerateRequest r;
  r.prompt = golden.prompt;
  r.max_new_tokens = 1;
  r.prompt_logprobs = 3;
  r.want_tokens = true;
  r.sampling.n_logprobs = 0;
  Setup setup;
  setup.token_budget = 10;
  const Outcome outcome = run(golden, {r, r}, setup);
  for (const auto& sink : outcome.sinks) {
    REQUIRE(sink->prompt.size() == golden.prompt.size());
    const size_t vocab = golden.logits.size() / golden.prompt.size();
    for (size_t i = 1; i < golden.prompt.size(); ++i) {
      const float* row = golden.logits.data() + (i - 1) * vocab;
      double sum = 0;
      for (size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(row[v]));
      const double expected = static_cast<double>(row[golden.prompt[i]]) - std::log(sum);
      CHECK(std::abs(static_cast<double>(sink->prompt[i].logprob) - expected) < 1e-3);
      const auto& top = sink->prompt[i].top;
      REQUIRE(top.size() == 3);
      CHECK((sink->prompt[i].rank <= 3) == (sink->prompt[i].logprob >= top[2].logprob));
      CHECK(top[0].logprob >= top[1].logprob);
    }
  }
}

TEST_CASE("tensor and pipeline ranks give the same tokens") {
  const Golden golden = read_golden("llama2_gqa");
  const std::vector<GenerateRequest> greedy = greedy_requests(golden), sampled = sampled_requests(golden);
  const Outcome one = run(golden, sampled, {});
  for (const auto& [tp, pp] : {std::pair{2, 1}, std::pair{1, 2}, std::pair{2, 2}}) {
    CAPTURE(tp);
    CAPTURE(pp);
    Setup setup;
    setup.tp = tp;
    setup.pp = pp;
    check_greedy(golden, run(golden, greedy, setup));
    setup.token_budget = 16;
    const Outcome many = run(golden, sampled, setup);
    for (size_t i = 0; i < sampled.size(); ++i)
      for (int32_t c = 0; c < sampled[i].n; ++c) CHECK(tokens_of(*many.sinks[i], c) == tokens_of(*one.sinks[i], c));
  }
}

TEST_CASE("a block size or a cache that cannot work is refused with the numbers") {
  const Golden golden = read_golden("llama2_gqa");
  ExecutorOptions options;
  options.max_seqs = 4;
  options.max_rows = 16;
  options.max_context = 256;
  options.block_size = 24;
  CHECK_THROWS_WITH_AS(Rank(golden, solo_groups(), options), doctest::Contains("24 tokens"), Error);
  options.block_size = 16;
  options.cache_bytes = 100;
  CHECK_THROWS_WITH_AS(Rank(golden, solo_groups(), options), doctest::Contains("not one block"), Error);
}

namespace {
// A device of so much memory, all of it for what is asked for by allocate().
class SmallDevice : public CpuBackend {
 public:
  SmallDevice(const CpuOptions& options, size_t bytes) : CpuBackend(options), left_(bytes) {}
  Buffer allocate(size_t bytes) override {
    if (bytes > left_) throw Error("out of memory");
    left_ -= bytes;
    return CpuBackend::allocate(bytes);
  }
  size_t free_bytes() const override { return left_; }

 private:
  size_t left_;
};
}  // namespace

TEST_CASE("the cache takes what weights and the largest step leave, whatever the model's steps are made of") {
  for (const char* name : {"llama2_gqa", "mixtral/odd_window", "qwen3/moe", "gemma/gemma3", "t5/flan"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    CpuOptions cpu;
    cpu.threads = 1;
    SmallDevice device(cpu, size_t{56} << 20);
    Groups groups = solo_groups();
    auto model = test::load_golden(golden, "auto", device, groups);
    size_t token = 0;
    for (const CacheGroupSpec& g : model->cache_groups()) token += g.bytes_per_token;
    ExecutorOptions options;
    options.max_rows = 1 << 13;
    options.max_seqs = 1 << 10;
    options.max_context = 256;
    options.cache_bytes = size_t{1} << 40;
    options.spare_bytes = size_t{1} << 20;
    const auto executor = make_model_executor(std::move(model), device, groups, options);
    const ExecutorInfo& info = executor->info();
    const size_t scores = static_cast<size_t>(info.limits.max_logits * info.model.vocab) * sizeof(float);
    CHECK(device.free_bytes() >= *options.spare_bytes + scores);
    const bool fills =
        info.cache_groups.size() == 1 && info.cache_groups[0].growth == CacheGroupSpec::Growth::kPerToken;
    if (fills && info.limits.blocks[0] < info.slots * 16)
      CHECK(device.free_bytes() < *options.spare_bytes + scores + 2 * 16 * token);
  }
}

}  // namespace sluice
