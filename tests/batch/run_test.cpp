// SPDX-License-Identifier: Apache-2.0
#include "batch/run.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "batch/scratch.h"
#include "engine/executor.h"
#include "text/tokenizer.h"

using namespace sluice;

namespace {

struct Fixture {
  Scratch scratch;
  std::unique_ptr<Tokenizer> tokenizer = Tokenizer::bytes();
  std::atomic<bool> stop{false};

  Fixture() { set_log_level(LogLevel::kOff); }
  std::unique_ptr<Engine> engine() const {
    ExecutorOptions options;
    options.max_seqs = 8;
    options.max_rows = 512;
    options.max_context = 256;
    options.cache_bytes = 8 * 256;
    return std::make_unique<Engine>(EngineOptions{}, make_null_executor(options, tokenizer->vocab_size(), 'x'),
                                    *tokenizer);
  }
  BatchOptions options(const std::string& prompts) const {
    BatchOptions batch;
    batch.prompts = scratch.write("in.jsonl", prompts);
    batch.output = scratch.path / "out.jsonl";
    batch.defaults.max_new_tokens = 5;
    batch.fingerprint = "null";
    return batch;
  }
};

std::string many(int n) {
  std::string text;
  for (int i = 0; i < n; ++i)
    text += "{\"prompt\":\"p" + std::to_string(i) + "\",\"max_tokens\":" + std::to_string(1 + i % 7) + "}\n";
  return text;
}

int64_t lines(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }

}  // namespace

TEST_CASE("every prompt has one answer in order, bad lines and refused requests carry their error") {
  Fixture f;
  const auto engine = f.engine();
  const BatchOptions options = f.options(
      "{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"top_p\":7}\n{\"messages\":[{\"role\":\"user\",\"content\":\"c\"}]}\n{"
      "\"prompt\":\"d\",\"max_tokens\":100000}\n");
  const BatchReport report = run_batch(options, *engine, nullptr, f.stop);
  CHECK(report.complete);
  CHECK(report.errors == 3);
  const std::string out = read_file(options.output);
  REQUIRE(lines(out) == 4);
  CHECK(out.find(R"({"index":0,"prompt":"a","text":"xxxxx","finish_reason":"length")") == 0);
  for (const char* part : {"{\"index\":1,\"error\":\"line 2: 'top_p'", "\"index\":2,", "chat template", "\"index\":3,"})
    CHECK(out.find(part) != std::string::npos);
}

TEST_CASE("a run that is stopped goes on where it was and ends with the same bytes") {
  Fixture f;
  const BatchOptions options = f.options(many(300));
  std::string undisturbed;
  {
    const auto engine = f.engine();
    REQUIRE(run_batch(options, *engine, nullptr, f.stop).complete);
    undisturbed = read_file(options.output);
    std::filesystem::remove(options.output);
  }
  int attempts = 0;
  for (bool complete = false; !complete; ++attempts) {
    REQUIRE(attempts < 400);
    const auto engine = f.engine();
    f.stop = false;
    std::jthread killer([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(2 + attempts));
      f.stop = true;
    });
    complete = run_batch(options, *engine, nullptr, f.stop).complete;
  }
  CHECK(read_file(options.output) == undisturbed);
}

TEST_CASE("a finished output is recognised, and one of other prompts is never overwritten") {
  Fixture f;
  const auto engine = f.engine();
  BatchOptions options = f.options(many(3));
  run_batch(options, *engine, nullptr, f.stop);
  CHECK(batch_is_complete(options));
  CHECK(run_batch(options, *engine, nullptr, f.stop).resumed == 3);
  options = f.options(many(4));
  CHECK_THROWS_WITH_AS(batch_is_complete(options), doctest::Contains("line 4"), Error);
}
