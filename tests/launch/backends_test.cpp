// SPDX-License-Identifier: Apache-2.0
#include "launch/backends.h"

#include <doctest/doctest.h>

#include <map>
#include <set>
#include <string>

using namespace sluice;

namespace {
struct Three : Backends {
  Three() {
    update({"a", "b", "c"}, 0);
    for (const char* name : {"a", "b", "c"}) report(name, true, 0, 0);
  }
};
}  // namespace

TEST_CASE("requests go where the least is under way") {
  Three backends;
  backends.report("a", true, 5, 1);
  backends.report("b", true, 2, 1);
  CHECK(backends.name_of(*backends.choose("", {})) == "c");
  std::map<std::string, int> count;
  for (int i = 0; i < 8; ++i) ++count[backends.name_of(*backends.choose("", {}))];
  CHECK(count["a"] == 0);
  CHECK(count["b"] > 0);
  CHECK(count["c"] > 2);
}

TEST_CASE("what begins alike goes to the same backend, until that has too much more to do") {
  Three backends;
  const std::string prefix = R"("messages":[{"role":"system","content":"You are")";
  const uint64_t first = *backends.choose(prefix, {});
  for (int i = 0; i < 4; ++i) CHECK(*backends.choose(prefix, {}) == first);
  CHECK(*backends.choose(prefix, {}) != first);
  std::set<uint64_t> homes;
  for (int i = 0; i < 40; ++i) {
    const uint64_t home = *backends.choose("prompt " + std::to_string(i), {}, 1000);
    homes.insert(home);
    backends.ended(home, false, 1);
  }
  CHECK(homes.size() == 3);
}

TEST_CASE("a backend that did not answer is out until it reports again") {
  Three backends;
  const uint64_t tag = *backends.choose("", {});
  const std::string name = backends.name_of(tag);
  backends.ended(tag, true, 1);
  for (int i = 0; i < 20; ++i) CHECK(*backends.choose("", {}) != tag);
  backends.report(name, true, 0, 2);
  CHECK(*backends.choose("", {}) == tag);
}

TEST_CASE("those that failed this request are passed over, and nobody is left in the end") {
  Three backends;
  std::vector<uint64_t> failed;
  for (int i = 0; i < 3; ++i) failed.push_back(*backends.choose("", failed));
  CHECK(std::set<uint64_t>(failed.begin(), failed.end()).size() == 3);
  CHECK_FALSE(backends.choose("", failed).has_value());
}

TEST_CASE("names that go away are forgotten and those that stay keep their counts") {
  Three backends;
  const uint64_t tag = *backends.choose("", {});
  const std::string name = backends.name_of(tag);
  backends.update({name, "d"}, 1);
  CHECK(backends.all().size() == 2);
  CHECK(backends.all()[0].in_flight == 1);
  CHECK_FALSE(backends.all()[1].healthy);
}

TEST_CASE("idle time counts from the last request's end") {
  Three backends;
  const uint64_t tag = *backends.choose("", {});
  const auto state = [&] {
    for (const BackendState& b : backends.all())
      if (b.tag == tag) return b;
    return BackendState{};
  };
  CHECK(state().idle_since == 0);
  backends.ended(tag, false, 50);
  CHECK(state().idle_since == 50);
}

TEST_CASE("the prefix begins at the prompt, not at the parameters before it") {
  CHECK(prompt_prefix(R"({"model":"x","temperature":0.3,"messages":[1]})") == R"("messages":[1]})");
  CHECK(prompt_prefix(R"({"seed":1,"inputs":"a"})") == R"("inputs":"a"})");
  CHECK(prompt_prefix("{}").empty());
  CHECK(prompt_prefix("\"prompt\"" + std::string(2000, 'x')).size() == 512);
}
