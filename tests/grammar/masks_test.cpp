// SPDX-License-Identifier: Apache-2.0
// Masks against a token-by-token search, and what random draws under them come to.
#include <doctest/doctest.h>

#include <functional>

#include "grammar/vocabularies.h"

using namespace sluice;
using namespace sluice::grammar;
using Kind = GrammarSpec::Kind;

namespace {

struct Source {
  Kind kind;
  const char* text;
};

constexpr Source kSources[] = {
    {Kind::kJsonObject, ""},
    {Kind::kRegex, "(ab?|hello){3,40}[0-9]{2,1000}(yes)?"},
    {Kind::kRegex, ".{30,2000}x"},
    {Kind::kRegex, "(a{1000}){2}|hello[0-9]"},
    {Kind::kRegex, "(a?|b*){100000,}"},
    {Kind::kChoice, R"(["yes","hello","hello123","ab"])"},
    {Kind::kEbnf, "root ::= \"[\" (root | \"a\"){0,50} \"]\""},
    {Kind::kJsonSchema, R"({"type":"string","minLength":25,"maxLength":3000})"},
    {Kind::kJsonSchema,
     R"({"type":"array","items":{"type":"array","minItems":30,"items":{"enum":[0,123,null]}},"maxItems":500})"},
    {Kind::kJsonSchema,
     R"({"properties":{"a":{"type":"string"},"é":{"type":"number","minimum":0.5},"b":{"$ref":"#"}},"required":["é"]})"},
    {Kind::kJsonSchema, R"({"type":"object","additionalProperties":{"type":["integer","null"]}})"},
    {Kind::kRegex, "(a{500}|ab)"},
    {Kind::kRegex, "[a-z]{2,5}[a-z0-9]{3}x?"},
    {Kind::kRegex, "([a-zé]+ ){2,20}[a-z]{3,30}@([a-z]{30,}|[a-y]{2})"},
    {Kind::kJsonSchema, R"({"anyOf":[{"type":"string","maxLength":3},{"type":"string","minLength":9,"maxLength":12},)"
                        R"({"const":"hello123"},{"type":"string","pattern":"^[a-z]{4,40}$"}]})"},
};

int32_t pick(std::span<const uint32_t> mask, size_t n, std::mt19937& random) {
  std::vector<int32_t> allowed;
  for (size_t id = 0; id < n; ++id)
    if (test::allows(mask, static_cast<int32_t>(id))) allowed.push_back(static_cast<int32_t>(id));
  return allowed.empty() ? -1 : allowed[random() % allowed.size()];
}

// `look` at each place of some random answers to each grammar.
void walk(uint32_t seed, int steps, const std::function<void(Runtime&, PlaceId, int step)>& look) {
  const auto vocabulary = test::small_vocabulary();
  std::mt19937 random(seed);
  for (const Source& source : kSources) {
    CAPTURE(std::string(source.text));
    const auto runtime = test::runtime_of(source.kind, source.text, vocabulary);
    for (int answer = 0; answer < 6; ++answer) {
      PlaceId place = Runtime::kStart;
      for (int step = 0; step < steps; ++step) {
        look(*runtime, place, step);
        const int32_t token = pick(runtime->mask(place), vocabulary->size(), random);
        REQUIRE(token >= 0);
        if (token == test::kEnd) break;
        place = runtime->advance(place, vocabulary->text(token));
      }
    }
  }
}

}  // namespace

TEST_CASE("a mask allows a token exactly when the grammar goes on after its bytes") {
  const auto vocabulary = test::small_vocabulary();
  walk(3, 150, [&](Runtime& runtime, PlaceId place, int step) {
    const std::vector<uint32_t> words = runtime.mask(place);
    for (size_t id = 0; id < vocabulary->size(); ++id) {
      const auto token = static_cast<int32_t>(id);
      const bool expected = token == test::kEnd ? runtime.accepts(place)
                                                : runtime.advance(place, vocabulary->text(token)) != Runtime::kNowhere;
      REQUIRE_MESSAGE(test::allows(words, token) == expected, "token ", token, " at step ", step);
    }
  });
}

TEST_CASE("a mask towards the end allows a token exactly when what it leads to can be ended in time") {
  const auto vocabulary = test::small_vocabulary();
  std::vector<uint32_t> words;
  int64_t most_next = 0;
  walk(5, 60, [&](Runtime& runtime, PlaceId place, int step) {
    if (step > 0) REQUIRE(runtime.left(place) <= most_next);
    for (const int64_t more : {-1, 0, 1, 3, 30}) {
      const int64_t most = runtime.left(place) + more;
      runtime.mask_towards_end(place, most, words);
      for (size_t id = 0; id < vocabulary->size(); ++id) {
        const auto token = static_cast<int32_t>(id);
        if (token == test::kEnd) continue;
        const PlaceId to = runtime.advance(place, vocabulary->text(token));
        const bool expected = to != Runtime::kNowhere && runtime.left(to) <= most;
        REQUIRE_MESSAGE(test::allows(words, token) == expected, "token ", token, " at step ", step, ", ", more);
      }
    }
    most_next = int64_t{runtime.left(place)} + runtime.growth(place);
  });
}

TEST_CASE("random draws end in a whole answer within their tokens, however few those are") {
  const auto vocabulary = test::small_vocabulary();
  std::mt19937 random(4);
  for (const Source& source : kSources) {
    CAPTURE(std::string(source.text));
    const auto runtime = test::runtime_of(source.kind, source.text, vocabulary);
    const int64_t least = runtime->left(Runtime::kStart) + 1;
    for (const int64_t tokens : {least, least + 1, least + 7, least + 60, least + 400}) {
      for (int answer = 0; answer < 5; ++answer) {
        Matcher matcher(runtime);
        std::string text;
        int64_t used = 0;
        while (used < tokens && !matcher.ended()) {
          const int32_t token = pick(matcher.mask(tokens - used), vocabulary->size(), random);
          REQUIRE(token >= 0);
          if (token != test::kEnd) text += vocabulary->text(token);
          matcher.accept(token);
          ++used;
        }
        REQUIRE_MESSAGE(matcher.ended(), "after ", used, " tokens: ", text);
        REQUIRE(runtime->accepts(runtime->advance(Runtime::kStart, text)));
      }
    }
  }
}

TEST_CASE("after the end only end tokens come, and a token that was not allowed ends the answer") {
  const auto runtime = test::runtime_of(Kind::kChoice, R"(["ab"])", test::small_vocabulary());
  Matcher matcher(runtime);
  matcher.accept('a');
  CHECK_FALSE(matcher.complete());
  matcher.accept('b');
  CHECK(matcher.complete());
  matcher.accept(test::kEnd);
  for (int32_t id = 0; id < 280; ++id) REQUIRE(test::allows(matcher.mask(5), id) == (id == test::kEnd));
  Matcher other(runtime);
  other.accept('x');
  CHECK(other.ended());
}

TEST_CASE("far counts share their masks") {
  const auto vocabulary = test::small_vocabulary();
  const auto runtime =
      test::runtime_of(Kind::kJsonSchema, R"({"type":"string","minLength":500,"maxLength":1000000})", vocabulary);
  PlaceId place = runtime->advance(Runtime::kStart, "\"");
  const uint32_t* first = runtime->mask(place).data();
  for (int i = 0; i < 400; ++i) {
    place = runtime->advance(place, "a");
    CHECK(runtime->mask(place).data() == first);
  }
  CHECK(runtime->left(place) == 101);
}
