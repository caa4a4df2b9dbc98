// SPDX-License-Identifier: Apache-2.0
// The whole engine over real models: what comes out depends on the request alone.
#include <doctest/doctest.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "comm/thread_groups.h"
#include "engine/engine.h"
#include "engine/grammar_compiler.h"
#include "engine/recording_sink.h"
#include "grammar/runtime.h"
#include "model/run_model.h"

namespace sluice {
namespace {

using test::Golden;
using test::read_golden;

// What one rank needs, made on its executor thread.
class Rank : public Executor {
 public:
  Rank(const Golden& golden, Groups groups, const ExecutorOptions& options, const std::string& dtype = "auto")
      : groups_(std::move(groups)) {
    CpuOptions cpu;
    cpu.threads = 1;
    if (const char* isa = std::getenv("SLUICE_CPU_ISA")) cpu.isa = isa;
    backend_ = make_cpu_backend(cpu);
    executor_ = make_model_executor(test::load_golden(golden, dtype, *backend_, groups_), *backend_, groups_, options);
  }
  const ExecutorInfo& info() const override { return executor_->info(); }
  void run(const Step& step, StepResult& result) override { executor_->run(step, result); }
  bool collect(StepResult& result) override { return executor_->collect(result); }

 private:
  Groups groups_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Executor> executor_;
};

class Wire {
 public:
  void push(std::span<const std::byte> bytes) {
    std::lock_guard lock(mutex_);
    queue_.emplace_back(bytes.begin(), bytes.end());
    ready_.notify_one();
  }
  bool next(std::vector<std::byte>& bytes) {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return !queue_.empty(); });
    bytes = std::move(queue_.front());
    queue_.pop_front();
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::vector<std::byte>> queue_;
};

struct Setup {
  int64_t token_budget = 64;
  bool prefix_cache = true;
  int64_t cache_tokens = 4096;
  int64_t max_seqs = 8;
  int64_t max_context = 256;
  int tp = 1, pp = 1;
  std::string dtype = "auto";
};

struct Outcome {
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  EngineStats stats;
};

Outcome run(const Golden& golden, const std::vector<GenerateRequest>& requests, const Setup& setup) {
  ExecutorOptions executor;
  executor.max_seqs = setup.max_seqs;
  executor.max_rows = setup.token_budget;
  executor.max_context = setup.max_context;
  executor.block_size = 16;
  {  // bytes of one token on one rank, from a model that is thrown away
    Groups solo = solo_groups();
    CpuOptions cpu;
    cpu.threads = 1;
    const auto backend = make_cpu_backend(cpu);
    const auto model = test::load_golden(golden, setup.dtype, *backend, solo);
    size_t bytes = 0;
    for (const CacheGroupSpec& g : model->cache_groups()) bytes += g.bytes_per_token;
    executor.cache_bytes = bytes * static_cast<size_t>(setup.cache_tokens) / static_cast<size_t>(setup.pp);
  }
  const auto tokenizer = Tokenizer::bytes();
  executor.grammars = std::make_shared<GrammarCompiler>(*tokenizer, 256, std::vector<int32_t>{2});
  std::vector<Groups> groups = make_thread_groups(setup.tp, setup.pp);
  std::vector<Wire> wires(groups.size());
  std::vector<std::thread> workers;
  for (size_t r = 1; r < groups.size(); ++r)
    workers.emplace_back([&, r] {
      Rank rank(golden, std::move(groups[r]), executor, setup.dtype);
      run_worker(rank, [&](std::vector<std::byte>& bytes) { return wires[r].next(bytes); });
    });
  Outcome outcome;
  {
    EngineOptions options;
    options.token_budget = setup.token_budget;
    options.prefix_cache = setup.prefix_cache;
    if (groups.size() > 1)
      options.broadcast = [&](std::span<const std::byte> bytes) {
        for (size_t r = 1; r < wires.size(); ++r) wires[r].push(bytes);
      };
    const Engine::ExecutorFactory factory = [&] {
      return std::make_unique<Rank>(golden, std::move(groups[0]), executor, setup.dtype);
    };
    Engine engine(options, factory, *tokenizer);
    for (const GenerateRequest& request : requests) {
      outcome.sinks.push_back(std::make_shared<RecordingSink>());
      engine.submit(request, outcome.sinks.back());
    }
    for (auto& sink : outcome.sinks) REQUIRE(sink->wait_end(120));
    for (int i = 0; i < 200 && engine.stats().blocks_used > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    outcome.stats = engine.stats();
  }
  for (auto& worker : workers) worker.join();
  for (auto& sink : outcome.sinks) {
    CHECK(sink->error.empty());
    CHECK(sink->broken == 0);
  }
  CHECK(outcome.stats.blocks_used == 0);
  return outcome;
}

std::vector<int32_t> tokens_of(RecordingSink& sink, int32_t choice = 0) {
  std::vector<int32_t> ids;
  for (const auto& piece : sink.choices[choice].pieces) ids.push_back(piece.token.id);
  return ids;
}

// The reference's continuation from several places on: each must end in the same tokens.
const int32_t kFrom[] = {0, 0, 5, 23, 40, 63};

std::vector<GenerateRequest> greedy_requests(const Golden& golden) {
  std::vector<GenerateRequest> requests;
  for (const int32_t from : kFrom) {
    GenerateRequest r;
    r.prompt = golden.prompt;
    r.prompt.insert(r.prompt.end(), golden.greedy.begin(), golden.greedy.begin() + from);
    r.max_new_tokens = 64 - from;
    r.ignore_eos = r.want_tokens = true;
    requests.push_back(r);
  }
  return requests;
}

void check_greedy(const Golden& golden, const Outcome& outcome) {
  for (size_t i = 0; i < outcome.sinks.size(); ++i)
    CHECK(tokens_of(*outcome.sinks[i]) == std::vector<int32_t>(golden.greedy.begin() + kFrom[i], golden.greedy.end()));
}

std::vector<GenerateRequest> sampled_requests(const Golden& golden) {
  std::vector<GenerateRequest> requests;
  const std::vector<int32_t>& prompt = golden.encoder.empty() ? golden.prompt : golden.encoder;
  for (int32_t i = 0; i < 6; ++i) {
    GenerateRequest r;
    r.prompt.assign(prompt.begin(), prompt.begin() + 3 + i * 4);
    r.max_new_tokens = 20 + 5 * i;
    r.ignore_eos = r.want_tokens = r.has_seed = true;
    r.sampling.greedy = false;
    r.sampling.temperature = 0.8f + 0.1f * static_cast<float>(i);
    r.sampling.seed = 1000 + static_cast<uint64_t>(i % 3);
    r.sampling.n_logprobs = 2;
    if (i % 2 == 1) r.sampling.top_k = 20;
    if (i == 2) r.sampling.repetition_penalty = 1.3f;
    if (i == 3) r.sampling.frequency_penalty = 0.5f;
    if (i == 4) r.n = r.best_of = 3;
    requests.push_back(r);
  }
  return requests;
}

}  // namespace

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

TEST_CASE("a prompt that was seen before is found in the cache") {
  const Golden golden = read_golden("llama2_gqa");
  Setup setup;
  setup.max_seqs = 1;  // one after the other
  const Outcome outcome = run(golden, greedy_requests(golden), setup);
  check_greedy(golden, outcome);
  CHECK(outcome.sinks[0]->usage.cached_tokens == 0);
  CHECK(outcome.sinks[1]->usage.cached_tokens > 0);
  CHECK(outcome.sinks[5]->usage.cached_tokens >= static_cast<int32_t>(golden.prompt.size()) + 40);
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
  r.prompt_logprobs = r.want_tokens = true;
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

TEST_CASE("every family gives the same samples over tensor and pipeline ranks") {
  for (const char* name : {"bloom/plain", "falcon/multi_query", "falcon/new_decoder", "falcon/alibi",
                           "gpt_neox/parallel", "opt/post_norm", "megatron_gpt/rope", "t5/flan", "t5/tied"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    const std::vector<GenerateRequest> sampled = sampled_requests(golden);
    Setup setup;
    setup.max_context = 160;  // of the smallest
    setup.dtype = "float32";
    const Outcome one = run(golden, sampled, setup);
    for (const auto& [tp, pp] : {std::pair{2, 1}, std::pair{4, 1}, std::pair{1, 2}, std::pair{2, 2}}) {
      CAPTURE(tp);
      CAPTURE(pp);
      setup.tp = tp;
      setup.pp = pp;
      const Outcome many = run(golden, sampled, setup);
      for (size_t i = 0; i < sampled.size(); ++i)
        for (int32_t c = 0; c < sampled[i].n; ++c) CHECK(tokens_of(*many.sinks[i], c) == tokens_of(*one.sinks[i], c));
    }
  }
}

TEST_CASE("an encoder's prompt gives the reference's tokens, whatever the layout and the cache") {
  for (const char* name : {"t5/flan", "t5/tied"}) {
    CAPTURE(name);
    const Golden golden = read_golden(name);
    std::vector<GenerateRequest> requests(6);
    for (size_t i = 0; i < requests.size(); ++i) {
      GenerateRequest& r = requests[i];
      r.prompt = golden.encoder;
      if (i % 2 == 1) std::reverse(r.prompt.begin(), r.prompt.end());  // others in the batch
      r.max_new_tokens = 64;
      r.n = r.best_of = i == 2 ? 3 : 1;
      r.ignore_eos = r.want_tokens = true;
    }
    const auto check_free = [&](const Setup& setup) {
      const Outcome outcome = run(golden, requests, setup);
      for (size_t i = 0; i < requests.size(); i += 2)
        for (int32_t c = 0; c < requests[i].n; ++c) CHECK(tokens_of(*outcome.sinks[i], c) == golden.free_greedy);
      CHECK(outcome.sinks[0]->usage.prompt_tokens == static_cast<int32_t>(golden.encoder.size()));
      CHECK(outcome.stats.cached_tokens == 0);
      return outcome.stats;
    };
    Setup setup;
    setup.dtype = "float32";
    setup.token_budget = 160;
    CHECK(check_free(setup).preemptions == 0);
    setup.tp = 2;
    check_free(setup);
    setup.pp = 2;
    check_free(setup);
    setup.tp = setup.pp = 1;
    setup.cache_tokens = 160;
    CHECK(check_free(setup).preemptions > 0);
  }
}

TEST_CASE("with an encoder the limits hold for prompt and answer apart") {
  const Golden golden = read_golden("t5/tied");
  ExecutorOptions executor;
  executor.max_seqs = 4;
  executor.max_rows = 40;
  executor.max_context = 32;
  executor.block_size = 16;
  const auto tokenizer = Tokenizer::bytes();
  EngineOptions options;
  options.token_budget = 40;
  Engine engine(options, std::make_unique<Rank>(golden, solo_groups(), executor), *tokenizer);
  CHECK(engine.info().limits.max_encoder == 32);
  const auto ask = [&](size_t prompt, int32_t answer, bool scores = false) {
    GenerateRequest r;
    r.prompt.assign(prompt, 5);
    r.max_new_tokens = answer;
    r.ignore_eos = true;
    r.prompt_logprobs = scores;
    const auto sink = std::make_shared<RecordingSink>();
    engine.submit(r, sink);
    CHECK(sink->wait_end(60));
    CHECK(sink->error.empty());
  };
  ask(32, 31);
  CHECK_THROWS_WITH_AS(ask(33, 1), doctest::Contains("33 tokens, but 32 are the limit"), RequestError);
  CHECK_THROWS_WITH_AS(ask(1, 32), doctest::Contains("32 new tokens exceed the limit of 31"), RequestError);
  CHECK_THROWS_WITH_AS(ask(4, 1, true), doctest::Contains("encoder"), RequestError);
}

std::vector<GenerateRequest> constrained_requests(const Golden& golden) {
  using Kind = GrammarSpec::Kind;
  const GrammarSpec grammars[] = {
      {Kind::kJsonSchema, R"({"properties":{"a":{"type":"integer","minimum":10},"b":{"type":"string","maxLength":9}},)"
                          R"("required":["a","b"],"additionalProperties":false})"},
      {Kind::kRegex, "(ab|cd){2,9}x[0-9]+"},
      {Kind::kChoice, R"(["yes","no","yesterday"])"},
      {Kind::kJsonObject, ""},
      {Kind::kEbnf, "root ::= \"(\" root* \")\""},
      {}};
  std::vector<GenerateRequest> requests;
  for (size_t i = 0; i < std::size(grammars); ++i) {
    GenerateRequest r;
    r.prompt.assign(golden.prompt.begin(), golden.prompt.begin() + 4 + static_cast<std::ptrdiff_t>(i) * 3);
    r.max_new_tokens = 60;
    r.want_tokens = r.has_seed = true;
    r.sampling.greedy = i == 2;
    r.sampling.temperature = 1.5f;
    r.sampling.seed = 7 + i;
    r.sampling.n_logprobs = 2;
    r.grammar = grammars[i];
    if (i == 1 || i == 3) r.n = r.best_of = 3;
    requests.push_back(r);
  }
  return requests;
}

TEST_CASE("constrained answers fit, end by themselves, and are the same in every batch, cache and layout") {
  const Golden golden = read_golden("llama2_gqa");
  const std::vector<GenerateRequest> requests = constrained_requests(golden);
  const Outcome expected = run(golden, requests, {});
  const auto tokenizer = Tokenizer::bytes();
  GrammarCompiler compiler(*tokenizer, 256, {2});
  for (size_t i = 0; i + 1 < requests.size(); ++i) {
    const auto runtime =
        std::make_shared<grammar::Runtime>(compiler.compile(requests[i].grammar), compiler.vocabulary());
    for (int32_t choice = 0; choice < requests[i].n; ++choice) {
      const auto& answer = expected.sinks[i]->choices[choice];
      CAPTURE(answer.text);
      CHECK(answer.finish == FinishReason::kEos);
      CHECK(answer.pieces.back().token.id == 2);
      grammar::PlaceId place = grammar::Runtime::kStart;
      for (const auto& piece : answer.pieces)
        if (piece.token.id != 2) place = runtime->advance(place, std::string(1, static_cast<char>(piece.token.id)));
      CHECK(runtime->accepts(place));
    }
  }
  const auto same = [&](const Outcome& other) {
    for (size_t i = 0; i < requests.size(); ++i)
      for (int32_t choice = 0; choice < requests[i].n; ++choice)
        CHECK(tokens_of(*other.sinks[i], choice) == tokens_of(*expected.sinks[i], choice));
  };
  same(run(golden, requests, {.token_budget = 16, .prefix_cache = false, .max_seqs = 2}));
  const Outcome tight = run(golden, requests, {.cache_tokens = 160});
  CHECK(tight.stats.preemptions > 0);
  same(tight);
  same(run(golden, requests, {.tp = 2}));
  same(run(golden, requests, {.pp = 2}));
  for (size_t i = 0; i < requests.size(); ++i) {
    const Outcome alone = run(golden, {requests[i]}, {});
    CHECK(tokens_of(*alone.sinks[0]) == tokens_of(*expected.sinks[i]));
  }
}

TEST_CASE("bans of words and runs of tokens hold in every batch, cache and layout") {
  const Golden golden = read_golden("llama2_gqa");
  std::vector<GenerateRequest> requests;
  for (int32_t i = 0; i < 4; ++i) {
    GenerateRequest r;
    r.prompt.assign(golden.prompt.begin(), golden.prompt.begin() + 5 + i * 4);
    r.max_new_tokens = 40;
    r.ignore_eos = r.want_tokens = r.has_seed = true;
    r.sampling.greedy = i % 2 == 0;
    r.sampling.top_k = 4;  // few tokens: runs come back
    r.sampling.no_repeat_ngram = 2 + i / 2;
    r.sampling.suppress = {7};
    r.bad_words = {"a", "bc"};
    requests.push_back(r);
  }
  const Outcome expected = run(golden, requests, {});
  for (size_t i = 0; i < requests.size(); ++i) {
    std::vector<int32_t> all = requests[i].prompt;
    const auto n = static_cast<size_t>(requests[i].sampling.no_repeat_ngram);
    for (const int32_t id : tokens_of(*expected.sinks[i])) {
      all.push_back(id);
      CHECK(id != 'a');
      CHECK(id != 7);
      CHECK_FALSE((all[all.size() - 2] == 'b' && id == 'c'));
      for (size_t at = 0; at + n < all.size(); ++at)
        REQUIRE_FALSE(std::equal(all.end() - static_cast<std::ptrdiff_t>(n), all.end(),
                                 all.begin() + static_cast<std::ptrdiff_t>(at)));
    }
  }
  for (const Setup& setup :
       {Setup{.token_budget = 16, .max_seqs = 2}, Setup{.cache_tokens = 112}, Setup{.tp = 2}, Setup{.pp = 2}}) {
    const Outcome other = run(golden, requests, setup);
    for (size_t i = 0; i < requests.size(); ++i) CHECK(tokens_of(*other.sinks[i]) == tokens_of(*expected.sinks[i]));
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

}  // namespace sluice
