// SPDX-License-Identifier: Apache-2.0
#include "batch/run.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "batch/answer.h"
#include "batch/progress.h"
#include "batch/scratch.h"
#include "batch/work.h"
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
  // With the engine's answers.
  BatchReport run(const BatchOptions& batch, Engine& engine) const {
    const auto answerer = engine_answerer(engine, nullptr, batch.seed);
    return run_batch(batch, *answerer, stop);
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
  const BatchReport report = f.run(options, *engine);
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
    REQUIRE(f.run(options, *engine).complete);
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
    complete = f.run(options, *engine).complete;
  }
  CHECK(read_file(options.output) == undisturbed);
}

TEST_CASE("a finished output is recognised, and one of other prompts is never overwritten") {
  Fixture f;
  const auto engine = f.engine();
  BatchOptions options = f.options(many(3));
  f.run(options, *engine);
  CHECK(batch_is_complete(options) == 0);
  CHECK(f.run(options, *engine).resumed == 3);
  options = f.options(many(4));
  CHECK_THROWS_WITH_AS(batch_is_complete(options), doctest::Contains("line 4"), Error);
  BatchOptions elsewhere = options;
  elsewhere.output = f.scratch.path / "none" / "out";
  CHECK_THROWS_WITH_AS(batch_is_complete(elsewhere), doctest::Contains("there is no folder"), Error);
  elsewhere.output = f.scratch.path;
  CHECK_THROWS_WITH_AS(batch_is_complete(elsewhere), doctest::Contains("a folder is there"), Error);
}

namespace {

// Answers "echo" of each prompt after a moment, from a thread of its own, in a changing order; may break down.
class Echo : public Answerer {
 public:
  explicit Echo(int64_t break_at = -1) : left_(break_at) {}
  void submit(Prompt prompt, Done done) override {
    if (left_ == 0) return done({prompt.index, {}, {}, "broken", 0});
    if (left_ > 0) --left_;
    Usage usage;
    usage.generated_tokens = 1;
    done({prompt.index, format_answer(prompt, "echo of " + prompt.text, FinishReason::kStop, "", usage), {}, {}, 1});
  }

 private:
  int64_t left_;
};

BatchOptions shared_options(const Fixture& f, const std::string& prompts, const std::string& id, int64_t first = 0) {
  BatchOptions options = f.options(prompts);
  options.shared = SharedOptions{.me = owner(id), .first = first, .of = 4, .chunk = 8};
  return options;
}

std::string numbered(int n) {
  std::string text;
  for (int i = 0; i < n; ++i) text += "prompt " + std::to_string(i) + "\n";
  return text;
}

}  // namespace

TEST_CASE("four processes divide one file and the output is whole, in order and made once") {
  Fixture f;
  const std::string prompts = numbered(1000);
  const BatchOptions alone = f.options(prompts);
  {
    Echo echo;
    REQUIRE(run_batch(alone, echo, f.stop).complete);
  }
  const std::string expected = read_file(alone.output);
  std::filesystem::remove(alone.output);
  std::vector<BatchReport> reports(4);
  std::vector<std::thread> threads;
  const BatchOptions options = shared_options(f, prompts, "w");
  for (size_t i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      BatchOptions mine = options;
      mine.shared->me = owner("w" + std::to_string(i));
      mine.shared->first = static_cast<int64_t>(i);
      mine.window = 3;
      Echo echo;
      reports[i] = run_batch(mine, echo, f.stop);
    });
  for (std::thread& thread : threads) thread.join();
  int64_t answered = 0;
  for (const BatchReport& report : reports) {
    CHECK(report.complete);
    answered += report.generated_tokens;
  }
  CHECK(answered == 1000);
  CHECK(read_file(options.output) == expected);
  CHECK_FALSE(std::filesystem::exists(shared_folder(options.output)));
}

TEST_CASE("what a process that broke down had answered is kept and what it had claimed is taken over") {
  Fixture f;
  const BatchOptions options = shared_options(f, numbered(200), "first");
  {
    Echo breaks(50);
    CHECK_THROWS_WITH_AS(run_batch(options, breaks, f.stop), doctest::Contains("broken; 50 of 200"), Error);
  }
  BatchOptions second = options;
  second.shared->me = owner("second");
  Echo echo;
  const BatchReport report = run_batch(second, echo, f.stop);
  CHECK(report.complete);
  CHECK(report.generated_tokens == 150);
  CHECK(lines(read_file(options.output)) == 200);
}

TEST_CASE("what a dead process had answered is read once, not once for each of its chunks") {
  const auto bytes_read = [] {
    std::ifstream io("/proc/self/io");
    std::string name;
    int64_t value = -1;
    io >> name >> value;
    return value;
  };
  Fixture f;
  BatchOptions options = shared_options(f, numbered(1500), "first");
  options.shared->chunk = 1;
  options.window = 1500;
  {
    Echo breaks(1000);
    CHECK_THROWS_AS(run_batch(options, breaks, f.stop), Error);
  }
  options.shared->me = owner("second");
  Echo echo;
  const int64_t before = bytes_read();
  REQUIRE(before >= 0);
  CHECK(run_batch(options, echo, f.stop).generated_tokens == 500);
  CHECK(bytes_read() - before < 5'000'000);
}

TEST_CASE("work begun alone is gone on with in company, and the other way round") {
  Fixture f;
  BatchOptions options = f.options(numbered(100));
  {
    Echo breaks(30);
    CHECK_THROWS_AS(run_batch(options, breaks, f.stop), Error);
  }
  options.shared = SharedOptions{.me = owner("w"), .chunk = 8};
  Echo echo;
  const BatchReport report = run_batch(options, echo, f.stop);
  CHECK(report.complete);
  CHECK(report.generated_tokens == 70);
  CHECK_FALSE(std::filesystem::exists(options.output.string() + ".journal"));
}

TEST_CASE("a shared folder of other prompts or settings is refused") {
  Fixture f;
  BatchOptions options = shared_options(f, numbered(100), "a");
  {
    Echo breaks(30);
    CHECK_THROWS_AS(run_batch(options, breaks, f.stop), Error);
  }
  Echo echo;
  BatchOptions other = options;
  other.fingerprint = "another model";
  CHECK_THROWS_WITH_AS(run_batch(other, echo, f.stop), doctest::Contains("belongs to other prompts or settings"),
                       Error);
  other = shared_options(f, numbered(99) + "prompt x\n", "b");
  CHECK_THROWS_WITH_AS(run_batch(other, echo, f.stop), doctest::Contains("belongs to other prompts or settings"),
                       Error);
}

TEST_CASE("who joins while the others put the output in place finds nothing left to do") {
  const Fixture f;
  const BatchOptions batch = f.options(many(3));
  const PromptFile prompts(batch.prompts);
  const auto join = [&] { return shared_work(prompts, batch.output, "null", SharedOptions{.me = owner("a")}); };
  f.scratch.write("out.jsonl.shared", "no folder any more");
  CHECK_THROWS_AS(join(), Error);
  f.scratch.write("out.jsonl", "answers");
  CHECK(join() == nullptr);
  CHECK(!std::filesystem::exists(shared_folder(batch.output)));
}

TEST_CASE("progress says how far all are, and how fast") {
  Fixture f;
  BatchOptions options = f.options(numbered(40));
  options.progress_seconds = 0;
  std::vector<BatchProgress> told;
  options.on_progress = [&](const BatchProgress& progress) { told.push_back(progress); };
  Echo echo;
  run_batch(options, echo, f.stop);
  REQUIRE(told.size() > 1);
  CHECK(told.back().done == 40);
  CHECK(told.back().prompts == 40);
  CHECK(told.back().generated_tokens == 40);
  CHECK(told.back().tokens_per_second > 0);
  CHECK(told.back().seconds_left == 0);
  ProgressRecord record{"148", "running", "in", "out", "148", "n1", 5, told.back(), "", "", 0};
  write_progress(f.scratch.path / "home", record);
  const auto read = read_progress(f.scratch.path / "home", "148");
  REQUIRE(read);
  CHECK(read->progress.done == 40);
  CHECK(read->state == "running");
  CHECK_FALSE(read_progress(f.scratch.path / "home", "149"));
  record.id = "8", record.task = "6_1", record.log = "/l", record.pid = 7, record.updated = 6;
  write_progress(f.scratch.path / "home", record);
  const std::vector<ProgressRecord> all = list_progress(f.scratch.path / "home");
  REQUIRE(all.size() == 2);
  CHECK(all[0].id == "8");
  CHECK(all[0].task == "6_1");
  CHECK(all[0].log == "/l");
  CHECK(all[0].pid == 7);
  CHECK(all[1].id == "148");
}

TEST_CASE("lines of OpenAI's format come out in it, bad ones with their number") {
  Fixture f;
  const BatchOptions options =
      f.options(R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}})"
                "\n{\"custom_id\":\"b\",\"method\":\"GET\",\"url\":\"/v1/completions\",\"body\":{}}\nnot json\n"
                R"({"custom_id":"c","method":"POST","url":"/v1/embeddings","body":{}})"
                "\n"
                R"({"custom_id":"d","method":"POST","url":"/v1/chat/completions","body":{"stream":true}})");
  class Fixed : public Answerer {
    void submit(Prompt prompt, Done done) override {
      CHECK(prompt.url == "/v1/completions");
      CHECK(prompt.body == R"({"model":"m","prompt":"x"})");
      done({prompt.index, format_response(prompt, 200, R"({"choices":[]})"), {}, {}, 1});
    }
  } fixed;
  CHECK(run_batch(options, fixed, f.stop).errors == 4);
  const std::string out = read_file(options.output);
  for (
      const char* line :
      {R"({"id":"batch_req_0","custom_id":"a","response":{"status_code":200,"request_id":"batch_req_0","body":{"choices":[]}},"error":null})",
       R"({"id":"batch_req_1","custom_id":"b","response":null,"error":{"code":"invalid_request","message":"line 2: 'method': expected POST, found GET"}})",
       R"({"id":"batch_req_2","custom_id":null,"response":null,"error":{"code":"invalid_request","message":"line 3: )",
       "line 4: 'url': expected /v1/chat/completions or /v1/completions, found /v1/embeddings",
       "line 5: 'body.stream'"})
    CHECK_MESSAGE(out.find(line) != std::string::npos, line);
  CHECK(batch_is_complete(options) == 4);
}
