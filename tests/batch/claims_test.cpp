// SPDX-License-Identifier: Apache-2.0
#include "batch/claims.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "batch/owner_file.h"
#include "batch/scratch.h"

using namespace sluice;

namespace {

Claims::Options options(const Scratch& scratch, int64_t chunks) {
  set_log_level(LogLevel::kOff);
  Claims::Options out;
  out.folder = scratch.path;
  out.chunks = chunks;
  out.queue_seconds = 0;
  return out;
}

CommandRunner squeue(const std::string& text, int code = 0) {
  return [=](const std::vector<std::string>&, double) { return CommandResult{code, text}; };
}

// What is left of a process that was killed: its claim of chunk 0, and no farewell.
void abandoned(const Scratch& scratch, const Owner& who, int64_t chunks = 1) {
  const pid_t child = ::fork();
  if (child == 0) {
    Claims claims(options(scratch, chunks), who);
    ::_exit(claims.take() ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(status == 0);
}

}  // namespace

TEST_CASE("every chunk is claimed once however many processes reach for it") {
  Scratch scratch;
  constexpr int64_t kChunks = 300;
  std::atomic<int64_t> taken{0};
  std::mutex mutex;
  std::vector<int> times(kChunks);
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([&, i] {
      Claims::Options mine = options(scratch, kChunks);
      mine.first = i * 40;
      Claims claims(std::move(mine), owner("w" + std::to_string(i)));
      while (const auto claim = claims.take()) {
        ++taken;
        CHECK(claim->attempt == 0);
        const std::lock_guard lock(mutex);
        ++times[static_cast<size_t>(claim->chunk)];
        claims.finish(claim->chunk);
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(taken == kChunks);
  for (const int n : times) CHECK(n == 1);
  Claims late(options(scratch, kChunks), owner("late"));
  CHECK_FALSE(late.take());
  CHECK(late.all_finished());
}

TEST_CASE("a chunk of a living process is not taken, one of a process that has left is") {
  Scratch scratch;
  auto first = std::make_unique<Claims>(options(scratch, 1), owner("a", "7"));
  REQUIRE(first->take());
  Claims::Options theirs = options(scratch, 1);
  theirs.run = squeue("7|RUNNING\n");
  Claims second(std::move(theirs), owner("b", "8"));
  CHECK_FALSE(second.take());
  CHECK(second.holders() == "7 on elsewhere (pid 0)");
  first.reset();
  const auto claim = second.take();
  REQUIRE(claim);
  CHECK(claim->attempt == 1);
  CHECK(claim->before == std::vector<std::string>{"a"});
}

TEST_CASE("the owner of a claim is dead when Slurm says that its job does not run") {
  for (const auto& [said, dead] : {std::pair<const char*, bool>{"7|RUNNING\n9|RUNNING\n", false},
                                   {"7|COMPLETING\n", false},
                                   {"7|SUSPENDED\n", false},
                                   {"9|RUNNING\n", true},
                                   {"7|PENDING\n", true},
                                   {"7|FAILED\n", true},
                                   {"7|REQUEUED\n", true}}) {
    Scratch scratch;
    abandoned(scratch, owner("a", "7"));
    Claims::Options mine = options(scratch, 1);
    mine.run = squeue(said);
    Claims claims(std::move(mine), owner("b", "8"));
    CHECK_MESSAGE(claims.take().has_value() == dead, said);
  }
}

TEST_CASE("where squeue does not answer or the cluster is another one nobody is called dead") {
  for (const char* cluster : {"c", "other"}) {
    Scratch scratch;
    Owner who = owner("a", "7");
    who.cluster = cluster;
    abandoned(scratch, who);
    Claims::Options mine = options(scratch, 1);
    mine.run = squeue("", who.cluster == "c" ? 1 : 0);
    Claims claims(std::move(mine), owner("b", "8"));
    CHECK_FALSE(claims.take());
  }
}

TEST_CASE("a requeued job takes over from its former self, and from nobody's later self") {
  Scratch scratch;
  abandoned(scratch, owner("a0", "7", 0), 2);
  {
    Claims again(options(scratch, 2), owner("a1", "7", 1));
    std::vector<int> attempts;
    while (const auto claim = again.take()) attempts.push_back(claim->attempt);
    CHECK(attempts == std::vector<int>{0, 1});
    Claims other(options(scratch, 2), owner("b", "8"));
    CHECK_FALSE(other.take());
  }
}

TEST_CASE("a third process sees by a claim of the later self that the former one is dead") {
  Scratch scratch;
  abandoned(scratch, owner("a0", "7", 0), 2);  // chunk 0
  abandoned(scratch, owner("a1", "7", 1), 2);  // chunk 1
  Claims other(options(scratch, 2), owner("b", "8"));
  const auto claim = other.take();
  REQUIRE(claim);
  CHECK(claim->chunk == 0);
}

TEST_CASE("a process of this host that is gone is dead at once, one that runs is not") {
  Scratch scratch;
  Launch launch;
  const Environment nothing = [](const char*) -> const char* { return nullptr; };
  const pid_t child = ::fork();
  if (child == 0) {
    Claims claims(options(scratch, 1), describe_owner(launch, nothing));
    ::_exit(claims.take() ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(status == 0);
  Claims second(options(scratch, 1), describe_owner(launch, nothing));
  CHECK(second.take());
  Claims third(options(scratch, 1), describe_owner(launch, nothing));
  CHECK_FALSE(third.take());
}

TEST_CASE("a process that is not heard of for long enough is dead, one that beats is not") {
  Scratch scratch;
  abandoned(scratch, owner("silent"));
  Claims::Options beating = options(scratch, 2);
  beating.beat_seconds = 0.02;
  Claims alive(std::move(beating), owner("alive"));
  REQUIRE(alive.take()->chunk == 1);
  Claims::Options mine = options(scratch, 2);
  mine.silence_seconds = 1.5;
  Claims claims(std::move(mine), owner("b"));
  CHECK_FALSE(claims.take());
  std::optional<Claim> claim;
  for (int i = 0; i < 400 && !claim; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    claim = claims.take();
  }
  REQUIRE(claim);
  CHECK(claim->chunk == 0);
  for (int i = 0; i < 40; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    CHECK_FALSE(claims.take());
  }
}

TEST_CASE("owners and claims are private, and an owner's text reads back") {
  Scratch scratch;
  Owner who = owner("a", "7", 3);
  who.pid = 4711;
  who.started = 99;
  Claims claims(options(scratch, 1), who);
  REQUIRE(claims.take());
  for (const char* name : {"owners/a", "claims/0.0", "beats/a"}) {
    struct stat status {};
    REQUIRE(::stat((scratch.path / name).c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
  }
  const Owner read = parse_owner(serialise(who));
  CHECK(serialise(read) == serialise(who));
  CHECK(parse_owner(serialise(who).substr(0, 40)).id == "");
}
